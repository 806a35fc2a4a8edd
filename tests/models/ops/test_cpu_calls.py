import ctypes
import importlib.util

import pytest

from models.ops import cpu

calls = pytest.importorskip("models.ops.cpu_calls")


def test_nothing_is_compiled_where_numba_is_told_so(monkeypatch):
    assert cpu.compiled_loops.__wrapped__() is calls
    monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    assert cpu.compiled_loops.__wrapped__() is None


@pytest.mark.parametrize("suffix", ["nbc", "nbi"])
def test_damaged_machine_code_is_compiled_anew(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("numba.config.CACHE_DIR", "")  # in __pycache__, whatever NUMBA_CACHE_DIR says
    file = tmp_path / "loops.py"
    file.write_text("def loop(block):\n    block[0] += 1\n")
    spec = importlib.util.spec_from_file_location("loops", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    compile_loop = calls._compiled.__wrapped__
    compile_loop(module.loop)
    (kept,) = (tmp_path / "__pycache__").glob(f"*.{suffix}")
    kept.write_bytes(kept.read_bytes()[:20])
    with pytest.warns(UserWarning, match=r"could not read or write .*delete \*\.nbi"):
        compiled = compile_loop(module.loop)
    number = ctypes.c_int64(4)
    ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_int64))(compiled.address)(ctypes.byref(number))
    assert number.value == 5
