"""What every benchmark needs: alternating runs, peak memory, rows that say where they come from.

Run benchmarks from the top folder, for example `python -m benchmarks.bench_akconv --help`.
"""

import csv
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from benchmarks.origin import origin
from utils.config import option
from utils.device import select_device, synchronize
from utils.errors import UserError

Key = TypeVar("Key", bound=Hashable)

_MOST_THREADS = 1024
SHORTEST_RUN = 0.01
"""Seconds: a faster call is repeated within one timed run, so that neither the clock nor a single interrupt counts."""


@dataclass(frozen=True)
class MeasureOptions:
    """Options that all benchmarks share."""

    repeats: int = option(5, "timed runs", least=1)
    threads: int = option(0, "threads of the CPU; 0 takes all cores", least=0)
    device: str = option("cpu", "cpu or a CUDA index")
    out: str = option("", "CSV file to write, besides printing")

    def start(self) -> torch.device:
        """Set the threads and a seed; the device to measure.

        Raises:
            UserError: If `out` cannot be written, or there are more threads than PyTorch can start.
        """
        if self.threads > _MOST_THREADS:
            raise UserError(f"--threads {self.threads}: expected at most {_MOST_THREADS}")
        if self.out:
            _try_to_write(Path(self.out))
        if self.threads:
            torch.set_num_threads(self.threads)
        torch.manual_seed(0)
        return select_device(self.device)


def _try_to_write(file: Path) -> None:
    if file.is_dir():
        raise UserError(f"--out {file}: is a folder, expected the name of a CSV file")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new = not file.exists()
        with file.open("a"):
            pass
        if new:
            file.unlink()
    except OSError as error:
        raise UserError(f"--out {file}: cannot be written ({error.strerror}); choose another file") from error


def check_imgsz(imgsz: int, stride: Tensor, model: str) -> None:
    """Refuse a side of images that a model cannot take.

    Args:
        imgsz: The side, pixels.
        stride: (L,) strides of the model.
        model: Its name.
    """
    largest = int(stride.max())
    if imgsz % largest:
        raise UserError(f"--imgsz {imgsz}: expected a multiple of {largest} for {model}")


@dataclass(frozen=True)
class Timing:
    """What several runs took, ms: 20th percentile, median, 80th percentile."""

    p20: float
    median: float
    p80: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timing":
        """Summarise runs; percentiles between two runs are interpolated."""
        return cls(*(1e3 * np.percentile(seconds, (20, 50, 80))).tolist())

    def columns(self, name: str) -> dict[str, object]:
        """As columns of a table."""
        return {f"{name}_ms": self.median, f"{name}_p20_ms": self.p20, f"{name}_p80_ms": self.p80}


def elapsed(call: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Seconds that one call takes, the mean of several in a row.

    Args:
        call: What to measure.
        device: Where it works; it is idle before and after.
        times: Number of calls.
    """
    synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        call()
    synchronize(device)
    return (time.perf_counter() - start) / times


def alternate(calls: Mapping[Key, Callable[[], object]], repeats: int, device: torch.device) -> dict[Key, Timing]:
    """Time calls in turn, so that a change of the machine's speed hits all alike.

    Args:
        calls: What to compare; each is called once before it counts.
        repeats: Runs of each; every round starts with another call.
        device: Where they work.
    """
    times = {name: math.ceil(SHORTEST_RUN / elapsed(call, device)) for name, call in calls.items()}
    runs: dict[Key, list[float]] = {name: [] for name in calls}
    order = deque(calls)
    for _ in range(repeats):
        for name in order:
            runs[name].append(elapsed(calls[name], device, times[name]))
        order.rotate(-1)
    return {name: Timing.of(seconds) for name, seconds in runs.items()}


class Report:
    """A table that grows row by row: an interrupted benchmark keeps what it has measured."""

    def __init__(self, file: str, device: torch.device, shown: Sequence[str]) -> None:
        """Write nothing yet.

        Args:
            file: CSV file, replaced when the first row comes; "" only prints.
            device: Named in each row, beside the machine, the versions and the code.
            shown: Columns to print.
        """
        self._shown = shown
        self._file = Path(file) if file else None
        self._where = origin(device)
        self._started = False

    def add(self, row: Mapping[str, object]) -> None:
        """Print a row, and write it with its origin; every row has the columns of the first."""
        texts = {name: _text(value) for name, value in row.items()}
        if not self._started:
            print("  ".join(f"{name:>{_width(name)}}" for name in self._shown))
        print("  ".join(f"{texts[name]:>{_width(name)}}" for name in self._shown), flush=True)
        if self._file:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a" if self._started else "w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, [*texts, *self._where], lineterminator="\n")
                if not self._started:
                    writer.writeheader()
                writer.writerow(texts | self._where)
        self._started = True

    def end(self, remedy: str) -> None:
        """Refuse to have measured nothing.

        Raises:
            UserError: With what the user can do.
        """
        if not self._started:
            raise UserError(f"nothing was measured; {remedy}")


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def _width(name: str) -> int:
    return max(len(name), 10)
