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
    block = libc.malloc({SIZE})
    ctypes.memset(block, 1, {SIZE})
    libc.free(block)

def main():
    use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    use()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

"""


def page_faults(call):
    """Of a block that is allocated, written and freed for the second time."""
    command = [sys.executable, "-c", SCRIPT + call]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROGRAM_ROOT)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's malloc")
def test_a_command_keeps_freed_memory_and_importing_does_not():
    # Pages of 2 MB are the fewest that the system hands out.
    assert page_faults("main()") >= SIZE >> 21
    for call in ("keep_freed_memory(); main()", "raise SystemExit(run_command(main))"):
        assert page_faults(call) < 8


@pytest.mark.parametrize("platform_name", ["darwin", "win32", "linux"])
def test_other_c_libraries_are_left_alone(platform_name, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform_name)
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    heap.keep_freed_memory()
