"""Images in their places on a grey ground, of which only what is looked at is read and drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from utils.data.images import PAD_GREY, Image


@dataclass(frozen=True)
class Picture:
    """An image that is read when it is needed.

    Attributes:
        shape: (h, w) in pixels.
        read: Gives the (h, w, 3) image.
    """

    shape: tuple[int, int]
    read: Callable[[], Image]


@dataclass(frozen=True)
class Canvas:
    """A scene of pictures; nobody sees what lies beyond its edges.

    Attributes:
        shape: (h, w) in pixels.
        tiles: Pictures with the (left, top) of their place; later ones cover earlier ones.
    """

    shape: tuple[int, int]
    tiles: Sequence[tuple[Picture, tuple[int, int]]]

    @classmethod
    def of(cls, image: Image) -> "Canvas":
        """A scene of one image (h, w, 3)."""
        shape = image.shape[0], image.shape[1]
        return cls(shape, [(Picture(shape, lambda: image), (0, 0))])

    def window(self, left: int, top: int, right: int, bottom: int) -> Image:
        """The pixels of a rectangle, which may reach beyond the canvas; grey where there is no picture.

        Returns:
            (bottom - top, right - left, 3), not to be written to: it can be a part of a picture.
        """
        out = None
        for picture, (x, y) in self.tiles:
            x1, y1 = max(x, 0, left), max(y, 0, top)
            x2, y2 = min(x + picture.shape[1], self.shape[1], right), min(y + picture.shape[0], self.shape[0], bottom)
            if x1 >= x2 or y1 >= y2:
                continue
            part = picture.read()[y1 - y : y2 - y, x1 - x : x2 - x]
            if len(self.tiles) == 1 and (x1, y1, x2, y2) == (left, top, right, bottom):
                return part
            if out is None:
                out = _grey(bottom - top, right - left)
            out[y1 - top : y2 - top, x1 - left : x2 - left] = part
        return _grey(bottom - top, right - left) if out is None else out

    def whole(self) -> Image:
        """All pixels, not to be written to."""
        return self.window(0, 0, self.shape[1], self.shape[0])


def _grey(height: int, width: int) -> Image:
    return np.full((height, width, 3), PAD_GREY, np.uint8)
