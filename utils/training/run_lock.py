"""Keeps two processes from training in one folder: the second would delete and overwrite files of the first."""

import contextlib
import logging
from pathlib import Path

import filelock

from utils.errors import UserError

log = logging.getLogger(__name__)

_NAME = ".lock"


class RunLock:
    """The right to write into the folder of a run; the system takes it back when the process ends, however it ends."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._lock: filelock.BaseFileLock | None = None

    def take(self, directory: Path) -> None:
        """Take the folder of a run.

        Raises:
            UserError: If another process has it.
        """
        lock = filelock.FileLock(directory / _NAME, timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise UserError(
                f"{directory}: another process is training this run; wait for its end, or stop it and repeat --resume"
            ) from error
        except NotImplementedError:  # what filelock raises there
            log.warning("%s: its file system knows no locks; see that no second process trains there", directory)
            return
        self._lock = lock

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock:
            self._lock.release()
            with contextlib.suppress(OSError):  # a Windows process that looks whether it is locked has it open
                Path(self._lock.lock_file).unlink()


def is_training(directory: Path) -> bool:
    """Whether a process is training the run in this folder."""
    if not (directory / _NAME).exists():
        return False
    lock = filelock.FileLock(directory / _NAME, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        return True
    except NotImplementedError:  # no locks on this file system
        return False
    lock.release()
    return False
