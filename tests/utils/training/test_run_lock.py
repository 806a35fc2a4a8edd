import os
import subprocess
import sys

import pytest

from utils.errors import UserError
from utils.files import PROGRAM_ROOT
from utils.training.run_lock import RunLock, is_training

HOLD = """
import sys
from pathlib import Path
from utils.training.run_lock import RunLock
lock = RunLock()
lock.take(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_one_process_at_a_time_and_no_trace_of_it(tmp_path):
    with RunLock() as lock:
        lock.take(tmp_path)
        assert is_training(tmp_path)
        with RunLock() as other, pytest.raises(UserError, match="another process is training"):
            other.take(tmp_path)
        assert is_training(tmp_path)
    assert not is_training(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_killed_process_holds_nothing(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(
        command, cwd=PROGRAM_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ}
    )
    assert process.stdout and process.stdout.readline() == b"held\n"
    assert is_training(tmp_path)
    process.kill()
    process.communicate()
    assert not is_training(tmp_path)
    with RunLock() as lock:
        lock.take(tmp_path)
