"""All samples of a data set in a few arrays: cheap to hand to worker processes, which share them."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from utils.data.labels import Array
from utils.data.scan import Sample


class PackedSamples(Sequence[Sample]):
    """Samples that are put together when they are asked for.

    A list of a hundred thousand samples has a million small objects. Every forked worker would copy them page by page
    just by counting references, and every spawned one would get a copy of its own at its start. Tensors are shared.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        """Pack samples."""
        polygons = [polygon for sample in samples for polygon in sample.polygons]
        points = [polygon for polygon in polygons if polygon is not None]
        paths = [os.fsencode(sample.path) for sample in samples]
        self._shapes = torch.tensor([sample.shape for sample in samples], dtype=torch.int32).view(-1, 2)
        self._paths = torch.from_numpy(np.frombuffer(bytearray(b"".join(paths)), np.uint8))
        self._path_ends = _ends([len(path) for path in paths])
        self._labels = torch.from_numpy(np.concatenate([np.zeros((0, 5), np.float32), *(s.labels for s in samples)]))
        self._label_ends = _ends([len(sample.labels) for sample in samples])
        self._points = torch.from_numpy(np.concatenate([np.zeros((0, 2), np.float32), *points]))
        self._point_ends = _ends([0 if polygon is None else len(polygon) for polygon in polygons])

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Sample(self.path(index), self.shape(index), *self.objects(index))

    def path(self, index: int) -> Path:
        """The file of one image."""
        start, end = self._path_ends[index : index + 2].tolist()
        return Path(os.fsdecode(self._paths[start:end].numpy().tobytes()))

    def objects(self, index: int) -> tuple[Array, list[Array | None]]:
        """Labels (n, 5) and n outlines of one image, see `Sample`."""
        first, last = self._label_ends[index : index + 2].tolist()
        ends = self._point_ends[first : last + 1].tolist()
        points = self._points.numpy()
        polygons = [points[start:end] if end > start else None for start, end in itertools.pairwise(ends)]
        return self._labels[first:last].numpy(), polygons

    def shape(self, index: int) -> tuple[int, int]:
        """(h, w) of one image."""
        height, width = self._shapes[index].tolist()
        return height, width


def _ends(lengths: Sequence[int]) -> torch.Tensor:
    """(n + 1,) where each part ends, behind a zero."""
    return torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int64))
