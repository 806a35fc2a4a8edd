"""Ctrl-C and SIGTERM during training: the first lets the step end, the second does not wait."""

import logging
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from utils.data.loader import Batch
from utils.errors import Terminated

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """A context in which a signal cannot tear a training step apart.

    An exception that a signal raises anywhere can be swallowed, for example in a destructor or in a callback from
    compiled code; so a signal is also remembered, and the next step is not begun.
    """

    def __init__(self) -> None:
        """Install nothing yet; that is done on entering, and only in the main thread, as Python requires."""
        self._received: type[KeyboardInterrupt] | None = None
        self._in_step = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def steps(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; what is done with one is `undisturbed`."""
        for batch in batches:
            with self.undisturbed():
                yield batch

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """What is done inside is completed before the first signal takes effect.

        Raises:
            KeyboardInterrupt: At the end, or at the beginning, if there was a signal; for SIGTERM, `Terminated`.
        """
        self._check()
        self._in_step = True
        try:
            yield
        finally:
            self._in_step = False
        self._check()

    def _check(self) -> None:
        if self._received:
            raise self._received

    def _receive(self, number: int, frame: FrameType | None) -> None:
        wait = self._in_step and self._received is None
        self._received = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if not wait:
            raise self._received
        log.info("\nstopping after this step; once more to stop at once")
