"""Paired bootstrap over images: the AP of several runs on the same resampled data sets, each of them exact."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.evaluation.metrics import Floats
from utils.evaluation.record import Record

_GRID = np.linspace(0, 1, 101)  # recalls at which metrics.py reads a curve
_TRAPEZOID = np.diff(_GRID, prepend=0) / 2 + np.diff(_GRID, append=1) / 2  # (101,) weight of each in the area
_AREA_BELOW = np.concatenate(([0.0], _TRAPEZOID.cumsum()))  # (102,) weight of the first k of them
_RAMP_BEYOND = np.concatenate(((_TRAPEZOID * (1 - _GRID))[::-1].cumsum()[::-1], [0.0]))  # (102,) a ramp to (1, 0)

_BLOCK = 200  # data sets computed together
_BLOCK_NUMBERS = 4_000_000  # at most so many numbers of one class at a time: memory, and a core's cache
_THREADS = 8


@dataclass(frozen=True)
class _ClassMatches:
    """One class: the image of each of d detections, most confident first, and which of them are right.

    Attributes:
        image: (d,)
        hits: For each IoU threshold the places of the true positives.
    """

    image: NDArray[np.intp]
    hits: list[NDArray[np.intp]]


class WeightedAP:
    """AP of each class that has labels, as a function of how often every image counts.

    The result is exactly that of `metrics.average_precision` for a data set that holds each image so many times.

    Attributes:
        classes: (c,) index of the classes that have labels.
        largest: Detections of the class with the most.
    """

    def __init__(self, record: Record, images: NDArray[np.intp]) -> None:
        """Sort and group the detections once.

        Args:
            record: The matches.
            images: (n,) column of the weights that belongs to each image of the record.
        """
        self.classes = np.unique(record.label_cls)
        self.thresholds = record.tp.shape[1]
        self._labels = np.zeros((len(images), len(self.classes)))
        column = np.searchsorted(self.classes, record.label_cls)
        np.add.at(self._labels, (images[record.label_image], column), 1)
        order = np.argsort(-record.conf.astype(np.float64), kind="stable")
        cls, image, tp = record.cls[order], images[record.detection_image][order], record.tp[order]
        by_class = np.argsort(cls, kind="stable")
        first, last = (np.searchsorted(cls[by_class], self.classes, side=side) for side in ("left", "right"))
        self.largest = int((last - first).max(initial=0))
        self._matches = []
        for start, stop in zip(first, last, strict=True):
            mine = by_class[start:stop]
            self._matches.append(_ClassMatches(image[mine], [np.flatnonzero(right) for right in tp[mine].T]))

    def __call__(self, weights: NDArray[np.int32]) -> Floats:
        """Compute.

        Args:
            weights: (b, n) how often each image counts, in each of b resampled data sets.

        Returns:
            (b, c, k) AP of c classes at k IoU thresholds; NaN for a class that has no labels left.
        """
        labels = weights @ self._labels  # (b, c)
        ap = np.zeros((len(weights), len(self.classes), self.thresholds))
        for column, matches in enumerate(self._matches):
            seen = np.cumsum(weights.take(matches.image, axis=1), axis=1, dtype=np.int32)  # (b, d)
            for threshold, hits in enumerate(matches.hits):
                if len(hits):
                    tp = np.cumsum(weights.take(matches.image[hits], axis=1), axis=1, dtype=np.int32)
                    ap[:, column, threshold] = _area(tp, seen.take(hits, axis=1), seen[:, -1], labels[:, column])
        ap[labels == 0] = np.nan
        return ap


def _area(tp: NDArray[np.int32], seen: NDArray[np.int32], total: NDArray[np.int32], labels: Floats) -> Floats:
    """Area under precision-recall curves, non-increasing and read at 101 recalls.

    Between two true positives the curve is level at the better precision of those to come: a false positive drops it
    there at once, and without one the precision only rises. After the last it falls in a line to recall 1.

    Args:
        tp: (b, h) true positives up to and with each true positive.
        seen: (b, h) detections up to and with it.
        total: (b,) all detections.
        labels: (b,)

    Returns:
        (b,)
    """
    precision = tp / np.maximum(seen, 1)
    level = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = tp / np.maximum(labels, 1)[:, None]
    passed = _recalls_below(recall)
    area = (level * np.diff(_AREA_BELOW[passed], axis=1, prepend=0)).sum(1)
    rest = 1 - recall[:, -1]
    slope = tp[:, -1] / np.maximum(total, 1) / np.where(rest > 0, rest, 1)
    return area + slope * _RAMP_BEYOND[passed[:, -1]]


def _recalls_below(recall: Floats) -> NDArray[np.intp]:
    """How many recalls of the grid lie below each; `np.searchsorted(_GRID, recall)`, seven times as fast."""
    count = (recall * 100 + 1e-9).astype(np.intp)  # too small by one, except on the grid and a hair before it
    return count + (_GRID[count] < recall)


def resampled(runs: Sequence[WeightedAP], images: int, *, replicates: int, seed: int) -> Floats:
    """Draw data sets of as many images as there are, with replacement, and measure every run on each.

    Args:
        runs: Of the same images and labels.
        images: How many.
        replicates: Data sets to draw.
        seed: Of the draws.

    Returns:
        (runs, replicates, c, k) AP, NaN for a class that no image of a data set has.
    """
    largest = max(run.largest for run in runs)
    block = min(_BLOCK, max(1, _BLOCK_NUMBERS // max(largest, 1)))

    def measure(start: int) -> list[Floats]:
        weights = np.stack([_draw(images, seed, i) for i in range(start, min(start + block, replicates))])
        return [run(weights) for run in runs]

    with ThreadPoolExecutor(min(os.cpu_count() or 1, _THREADS)) as pool:
        parts = list(pool.map(measure, range(0, replicates, block)))
    return np.stack([np.concatenate(own) for own in zip(*parts, strict=True)])


def _draw(images: int, seed: int, replicate: int) -> NDArray[np.int32]:
    """(images,) how often each is drawn."""
    random = np.random.default_rng((seed, replicate))
    return np.bincount(random.integers(images, size=images), minlength=images).astype(np.int32)
