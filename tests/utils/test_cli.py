import errno
import os
import signal
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
    before = signal.getsignal(signal.SIGINT)
    try:
        assert run_command(raiser(KeyboardInterrupt())) == 130
    finally:
        signal.signal(signal.SIGINT, before)


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


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EFBIG])
def test_other_limits_are_told_without_a_file_too(number, capsys):
    assert run_command(raiser(OSError(number, os.strerror(number)))) == 1
    assert capsys.readouterr().err.startswith(f"error: {os.strerror(number)}; ")


def run_script(script, **options):
    command = [sys.executable, "-c", script]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, cwd=PROGRAM_ROOT, **options)


def test_a_reader_that_goes_away_stops_nothing(tmp_path):
    script = f"""
import logging, pathlib
from utils.cli import run_command
def main():
    for _ in range(3): logging.getLogger("utils").info("a line")
    pathlib.Path({str(tmp_path / "done")!r}).touch()
run_command(main)
"""
    read, write = os.pipe()
    os.close(read)
    done = run_script(script, stdout=write)
    os.close(write)
    assert (tmp_path / "done").exists()
    assert "Traceback" not in done.stderr and "Logging error" not in done.stderr


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "ß \\udcff"), ("ascii", "\\xdf \\udcff")])
def test_any_name_can_be_told(encoding, shown):
    script = """
import logging
from utils.cli import run_command
run_command(lambda: logging.getLogger("utils").info("\\xdf \\udcff"))
"""
    env = os.environ | {"PYTHONIOENCODING": f"{encoding}:strict"}
    done = run_script(script, stdout=subprocess.PIPE, encoding="utf-8", env=env)
    assert (done.stdout, done.stderr) == (f"{shown}\n", "")


def test_ctrl_c_while_the_process_ends_leaves_no_traceback():
    script = """
import atexit, os, signal
from utils.cli import run_command
def main(): raise KeyboardInterrupt
atexit.register(os.kill, os.getpid(), signal.SIGINT)
raise SystemExit(run_command(main))
"""
    done = run_script(script, stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (130, "interrupted\ninterrupted\n")


def test_our_own_mistakes_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command(raiser(ZeroDivisionError()))
