import os
import platform
import subprocess
import sys

import pytest

from utils import heap
from utils.files import PROGRAM_ROOT

SIZE = 64 << 20
SCRIPT = f"""
import ctypes, resource
from utils.cli import run_command
from utils.heap import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def use():
    blocks = [libc.malloc({SIZE}) for _ in range(3)]
    for block in blocks:
        ctypes.memset(block, 1, {SIZE})
    for block in blocks:
        libc.free(block)

def main():
    use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    use()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's malloc")


def page_faults(call, **variables):
    """Of three blocks that are allocated, written and freed for the second time."""
    command = [sys.executable, "-c", SCRIPT + call]
    inherited = {name: value for name, value in os.environ.items() if name not in (*heap._VARIABLES, "GLIBC_TUNABLES")}
    env = inherited | variables
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROGRAM_ROOT, env=env)
    return int(done.stdout)


@glibc
@pytest.mark.parametrize(
    "start",
    ["raise SystemExit(run_command(main))", "from utils.data.loader import start_worker; start_worker(0); main()"],
)
def test_commands_and_workers_keep_freed_memory(start):
    assert page_faults(start) < 8


@glibc
def test_importing_changes_nothing_and_the_users_own_settings_count():
    few = 3 * SIZE >> 21  # pages of 2 MB are the largest that the system hands out
    assert page_faults("main()") >= few
    call, trim = "keep_freed_memory(); main()", "glibc.malloc.trim_threshold=131072"
    for variable in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        assert page_faults(call, **{variable: "131072"}) >= few
    assert page_faults(call, GLIBC_TUNABLES=trim) >= few
    assert page_faults(call, GLIBC_TUNABLES="glibc.rtld.optional_static_tls=512") < 8


@pytest.mark.parametrize("name", ["darwin", "win32"])
def test_other_systems_are_left_alone(name, monkeypatch):
    monkeypatch.setattr(sys, "platform", name)
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: pytest.fail("no such library"))
    heap.keep_freed_memory()


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: object())
    heap.keep_freed_memory()
