"""How a command runs and ends: one clear line and a non-zero status for a user's mistake, never a traceback."""

import errno
import io
import logging
import os
import signal
import sys
from collections.abc import Callable

from utils.errors import Terminated, UserError

_REMEDY = {
    errno.ENOSPC: "free some disk space or write to another place",
    errno.EDQUOT: "your disk quota is used up; remove some files or write to another place",
    errno.EFBIG: "files may not be so large here (ulimit -f, or the file system); write to another place",
    errno.EACCES: "check the permissions or write to another place",
    errno.EROFS: "the file system is read-only, write to another place",
    errno.ENOTDIR: "a parent of this path is a file, choose another path",
}


def end_at_once_on_interrupt() -> None:
    """What Ctrl-C does until `run_command`: end without a traceback.

    A script calls this before its other imports: they take seconds, in which there is nothing to lose.
    """
    signal.signal(signal.SIGINT, _end_at_once)


def _end_at_once(*_: object) -> None:
    os.write(sys.stderr.fileno(), b"interrupted\n")
    os._exit(130)


class _Console(logging.StreamHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], BrokenPipeError):  # that nobody reads any more, as `| head`, stops nothing
            super().handleError(record)


def run_command(main: Callable[[], object]) -> int:
    """Run a command's main function and turn what can go wrong for a user into an exit status.

    Args:
        main: Does the work; raises `UserError` for what the user can mend.

    Returns:
        0 on success, 1 for a user's mistake or a file that cannot be read or written, 130 after Ctrl-C, 143
        after SIGTERM.
    """
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text, or not in the locale
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_Console(sys.stdout)])
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        if error.filename is None and error.errno not in _REMEDY:
            raise
        remedy = _REMEDY.get(error.errno or 0, "check the path")
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}; {remedy}", file=sys.stderr)
    except Terminated:
        print("terminated", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        end_at_once_on_interrupt()  # nothing is left to do but to end the workers
        print("interrupted", file=sys.stderr)
        return 130
    else:
        return 0
    return 1
