import errno
import os
import subprocess
import sys

import pytest

from utils.cli import run_command
from utils.errors import UserError
from utils.files import PROGRAM_ROOT


def raiser(error):
    def main():
        raise error

    return main


def test_statuses_and_messages(capsys):
    assert run_command(lambda: None) == 0
    assert run_command(raiser(UserError("a.yaml:3: wrong"))) == 1
    assert capsys.readouterr().err == "error: a.yaml:3: wrong\n"
    assert run_command(raiser(KeyboardInterrupt())) == 130


def test_ctrl_c_before_the_imports_are_done_leaves_no_traceback():
    script = """
import os, signal
from utils.cli import end_at_once_on_interrupt, run_command
end_at_once_on_interrupt()
def main(): raise KeyboardInterrupt
if {early}: os.kill(os.getpid(), signal.SIGINT)
raise SystemExit(run_command(main))
"""
    for early in (True, False):
        command = [sys.executable, "-c", script.format(early=early)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROGRAM_ROOT)
        assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_full_disk_is_told_with_a_remedy(capsys):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/last.pt")
    assert run_command(raiser(full)) == 1
    line = capsys.readouterr().err
    assert "runs/last.pt" in line and "No space left" in line and "free some disk space" in line


def test_our_own_mistakes_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command(raiser(ZeroDivisionError()))
