"""Why a command stops early: a mistake in what a user gave us, or a signal."""


class UserError(Exception):
    """A mistake in a file, a flag or a value, told in one message.

    The message names the file, and the line or layer where there is one, says what was found, what was expected, and
    what to do about it. Commands print it as one line without a traceback and exit with status 1 (`utils.cli`).
    """


class Terminated(KeyboardInterrupt):
    """SIGTERM asked the program to stop, as Ctrl-C does."""
