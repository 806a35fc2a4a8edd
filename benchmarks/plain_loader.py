"""A plain training loader: mosaic, warp, colours, flip; hardly more than calls of OpenCV, pixels only, no checks."""

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.random import Generator

from utils.data.images import Image
from utils.training.hyp import Hyp

GREY = 114


def plain_item(paths: list[Path], size: int, hyp: Hyp, rng: Generator) -> torch.Tensor:
    """A network input made of four images.

    Args:
        paths: The four files.
        size: Side of the result, pixels.
        hyp: For the ranges of zoom, shift and colours, and the probability of a flip.
        rng: Source of all random numbers.

    Returns:
        uint8 (3, size, size) RGB.
    """
    image = mosaic([resize(decode(path), size) for path in paths], size, rng)
    return to_tensor(flip(colours(warp(image, size, hyp, rng), hyp, rng), hyp, rng))


def decode(path: Path) -> Image:
    """(h, w, 3) BGR."""
    image = cv2.imread(str(path))
    assert image is not None, path
    return image


def resize(image: Image, size: int) -> Image:
    """The long side becomes `size`."""
    height, width = image.shape[:2]
    gain = size / max(height, width)
    return cv2.resize(image, (round(width * gain), round(height * gain)))


def mosaic(images: list[Image], size: int, rng: Generator) -> Image:
    """Four images around a random point of a canvas twice as large."""
    canvas = np.full((2 * size, 2 * size, 3), GREY, np.uint8)
    y, x = (int(v) for v in rng.integers(size // 2, 3 * size // 2, 2))
    corners = canvas[:y, :x][::-1, ::-1], canvas[:y, x:][::-1], canvas[y:, :x][:, ::-1], canvas[y:, x:]
    turned = images[0][::-1, ::-1], images[1][::-1], images[2][:, ::-1], images[3]
    for corner, image in zip(corners, turned, strict=True):  # turned so that each starts at the point
        h, w = np.minimum(corner.shape[:2], image.shape[:2])
        corner[:h, :w] = image[:h, :w]
    return canvas


def warp(image: Image, size: int, hyp: Hyp, rng: Generator) -> Image:
    """Zoom about the centre, and shift."""
    zoom = rng.uniform(1 - hyp.scale, 1 + hyp.scale)
    shift = rng.uniform(0.5 - hyp.translate, 0.5 + hyp.translate, 2) * size
    matrix = np.array(((zoom, 0, shift[0] - zoom * size), (0, zoom, shift[1] - zoom * size)))
    return cv2.warpAffine(image, matrix, (size, size), borderValue=(GREY, GREY, GREY))


def colours(image: Image, hyp: Hyp, rng: Generator) -> Image:
    """Random gains of hue, saturation and value."""
    gains = 1 + rng.uniform(-1, 1, 3) * (hyp.hsv_h, hyp.hsv_s, hyp.hsv_v)
    levels = np.arange(256) * gains[:, None]  # (3, 256)
    tables = (levels[0] % 180, *levels[1:].clip(0, 255))
    channels = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
    changed = [cv2.LUT(c, table.astype(np.uint8)) for c, table in zip(channels, tables, strict=True)]
    return cv2.cvtColor(cv2.merge(changed), cv2.COLOR_HSV2BGR)


def flip(image: Image, hyp: Hyp, rng: Generator) -> Image:
    """Left to right, sometimes."""
    return cv2.flip(image, 1) if rng.random() < hyp.fliplr else image


def to_tensor(image: Image) -> torch.Tensor:
    """(3, h, w) RGB."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)[::-1]))
