"""Where the time of an epoch goes."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from utils.data.loader import Batch


class Stopwatch:
    """Adds up the time of named stages; on a GPU the time of its work, without ever waiting for it in between."""

    def __init__(self, device: torch.device) -> None:
        """Start at zero.

        Args:
            device: Whose work is timed.
        """
        self._on_gpu = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._marks: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._start = time.perf_counter()

    def waiting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; how long they are waited for is the stage "loader"."""
        start = time.perf_counter()
        for batch in batches:
            self._add("loader", time.perf_counter() - start)
            yield batch
            start = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        if not self._on_gpu:
            start = time.perf_counter()
            yield
            self._add(name, time.perf_counter() - start)
            return
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        yield
        last.record()
        self._marks.append((name, first, last))

    def summary(self) -> str:
        """The time since the start, and the share of each stage; waits for the GPU."""
        for name, first, last in self._marks:
            last.synchronize()
            self._add(name, first.elapsed_time(last) / 1000)
        self._marks = []
        total = time.perf_counter() - self._start
        shares = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in self._seconds.items())
        return f"{total:.1f} s: {shares}"

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
