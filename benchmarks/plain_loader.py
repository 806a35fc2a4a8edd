"""A plain training loader: mosaic, warp, colours, flip; hardly more than calls of OpenCV, pixels only, no checks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from utils.data.images import Image
from utils.training.hyp import Hyp

GREY = 114


@dataclass(frozen=True)
class Choice:
    """All that is random in one network input.

    Attributes:
        centre: (x, y) where the four images meet.
        matrix: (2, 3) from pixels of the mosaic to pixels of the result.
        gains: Of hue, saturation and value.
        flip: Left to right.
    """

    centre: tuple[int, int]
    matrix: NDArray[Any]
    gains: NDArray[Any]
    flip: bool


def choose(size: int, hyp: Hyp, rng: Generator) -> Choice:
    """Draw at random, as the recipe says."""
    x, y = (int(v) for v in rng.integers(size // 2, 3 * size // 2, 2))
    zoom = rng.uniform(1 - hyp.scale, 1 + hyp.scale)
    shift = rng.uniform(0.5 - hyp.translate, 0.5 + hyp.translate, 2) * size
    matrix = np.array(((zoom, 0, shift[0] - zoom * size), (0, zoom, shift[1] - zoom * size)))
    gains = 1 + rng.uniform(-1, 1, 3) * (hyp.hsv_h, hyp.hsv_s, hyp.hsv_v)
    return Choice((x, y), matrix, gains, bool(rng.random() < hyp.fliplr))


def plain_item(paths: Sequence[Path], size: int, choice: Choice) -> torch.Tensor:
    """A network input made of four images.

    Args:
        paths: The four files.
        size: Side of the result, pixels.
        choice: All that is random.

    Returns:
        uint8 (3, size, size) RGB.
    """
    image = mosaic([resize(decode(path), size) for path in paths], size, choice)
    image = colours(warp(image, size, choice), choice)
    return to_tensor(flip(image) if choice.flip else image)


def decode(path: Path) -> Image:
    """(h, w, 3) BGR."""
    image = cv2.imread(str(path))
    assert image is not None, path
    return image


def resize(image: Image, size: int) -> Image:
    """The long side becomes `size`."""
    height, width = (-(-side * size // max(image.shape)) for side in image.shape[:2])
    return cv2.resize(image, (width, height))


def mosaic(images: list[Image], size: int, choice: Choice) -> Image:
    """Four images around a point of a canvas twice as large."""
    canvas = np.full((2 * size, 2 * size, 3), GREY, np.uint8)
    x, y = choice.centre
    corners = canvas[:y, :x][::-1, ::-1], canvas[:y, x:][::-1], canvas[y:, :x][:, ::-1], canvas[y:, x:]
    turned = images[0][::-1, ::-1], images[1][::-1], images[2][:, ::-1], images[3]
    for corner, image in zip(corners, turned, strict=True):  # turned so that each starts at the point
        h, w = np.minimum(corner.shape[:2], image.shape[:2])
        corner[:h, :w] = image[:h, :w]
    return canvas


def warp(image: Image, size: int, choice: Choice) -> Image:
    """Zoom and shift."""
    return cv2.warpAffine(image, choice.matrix, (size, size), borderValue=(GREY, GREY, GREY))


def colours(image: Image, choice: Choice) -> Image:
    """Gains of hue, saturation and value."""
    levels = np.arange(256) * choice.gains[:, None]  # (3, 256)
    tables = (levels[0] % 180, *levels[1:].clip(0, 255))
    table = np.stack(tables, axis=1).astype(np.uint8)[:, None]  # (256, 1, 3)
    return cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), table), cv2.COLOR_HSV2BGR)


def flip(image: Image) -> Image:
    """Left to right."""
    return cv2.flip(image, 1)


def to_tensor(image: Image) -> torch.Tensor:
    """(3, h, w) RGB."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)[::-1]))
