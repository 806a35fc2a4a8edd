"""The objects of one image while it is being resized, moved and mixed: all in pixels, boxes and polygons aligned."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Objects:
    """What is to be found in an image.

    Attributes:
        classes: (n,) class indices.
        boxes_xyxy: (n, 4) pixels, x1 <= x2 and y1 <= y2.
        polygons: n outlines (k, 2) x, y in pixels, or None where only the box is known.
    """

    classes: Floats
    boxes_xyxy: Floats
    polygons: list[Floats | None]

    def __len__(self) -> int:
        return len(self.classes)

    @classmethod
    def from_labels(cls, labels: Floats, polygons: Sequence[Floats | None], size: tuple[float, float]) -> "Objects":
        """Objects in pixels of an image from labels relative to its size.

        Args:
            labels: (n, 5) class, cx, cy, w, h in 0..1.
            polygons: n outlines (k, 2) in 0..1, or None.
            size: (w, h) of the image in pixels.
        """
        centres, halves = labels[:, 1:3], labels[:, 3:5] / 2
        boxes = np.concatenate((centres - halves, centres + halves), axis=1, dtype=np.float32)
        return cls(labels[:, 0], boxes, list(polygons)).mapped(size, (0, 0))

    def to_labels(self, size: tuple[float, float]) -> Floats:
        """(n, 5) class, cx, cy, w, h in 0..1 of an image of `size` (w, h), the boxes clipped to it."""
        boxes = self.clipped(size).boxes_xyxy / np.array((*size, *size), np.float32)
        low, high = boxes[:, :2], boxes[:, 2:]
        return np.concatenate((self.classes[:, None], (low + high) / 2, high - low), axis=1)

    def mapped(self, factor: tuple[float, float], offset: tuple[float, float]) -> "Objects":
        """Objects at point * factor + offset, both (x, y); a negative factor mirrors."""
        scale, shift = np.array(factor, np.float32), np.array(offset, np.float32)
        corners = self.boxes_xyxy.reshape(-1, 2, 2) * scale + shift
        corners.sort(axis=1)
        polygons = [None if points is None else points * scale + shift for points in self.polygons]
        return Objects(self.classes, corners.reshape(-1, 4), polygons)

    def clipped(self, size: tuple[float, float]) -> "Objects":
        """Objects cut at the border of an image of `size` (w, h)."""
        limit = np.array(size, np.float32)
        boxes = self.boxes_xyxy.reshape(-1, 2, 2).clip(0, limit).reshape(-1, 4)
        polygons = [None if points is None else points.clip(0, limit) for points in self.polygons]
        return Objects(self.classes, boxes, polygons)

    def select(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> "Objects":
        """The objects of a mask (n,), or of indices."""
        indices = np.arange(len(self))[rows]
        return Objects(self.classes[indices], self.boxes_xyxy[indices], [self.polygons[i] for i in indices])


def joined(parts: Sequence[Objects]) -> Objects:
    """All objects of several sets in one image."""
    return Objects(
        np.concatenate([part.classes for part in parts]),
        np.concatenate([part.boxes_xyxy for part in parts]),
        [polygon for part in parts for polygon in part.polygons],
    )
