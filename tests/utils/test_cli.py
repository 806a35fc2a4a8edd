import errno
import os

import pytest

from utils.cli import run_command
from utils.errors import UserError


def raiser(error):
    def main():
        raise error

    return main


def test_statuses_and_messages(capsys):
    assert run_command(lambda: None) == 0
    assert run_command(raiser(UserError("a.yaml:3: wrong"))) == 1
    assert capsys.readouterr().err == "error: a.yaml:3: wrong\n"
    assert run_command(raiser(KeyboardInterrupt())) == 130


def test_a_full_disk_is_told_with_a_remedy(capsys):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/last.pt")
    assert run_command(raiser(full)) == 1
    line = capsys.readouterr().err
    assert "runs/last.pt" in line and "No space left" in line and "free some disk space" in line


def test_our_own_mistakes_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command(raiser(ZeroDivisionError()))
