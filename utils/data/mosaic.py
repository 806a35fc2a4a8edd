"""New training scenes made of several images: mosaic, copy-paste and mixup."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.random import Generator

from utils.data.images import PAD_GREY, Image
from utils.data.objects import Floats, Objects, joined

MAX_COVERED = 0.3
"""Part of an object that a pasted copy may cover."""
MIXUP_BETA = 32.0
"""Both parameters of the beta distribution of the blend: close to half and half."""


def mosaic(tiles: Sequence[tuple[Image, Objects]], size: int, rng: Generator) -> tuple[Image, Objects]:
    """Four images around a random point of a canvas twice as large (https://arxiv.org/abs/2004.10934).

    Args:
        tiles: Images with a long side of `size` at most, and their objects: top left, top right, bottom left,
            bottom right. What of an image lies beyond the canvas is cut off.
        size: Pixels of the side of the network input.
        rng: Source of the point, which lies in the middle half of the canvas.

    Returns:
        (2 size, 2 size, 3) image and its objects, clipped to it.
    """
    side = 2 * size
    y, x = (int(rng.uniform(size / 2, 3 * size / 2)) for _ in range(2))
    canvas = np.full((side, side, 3), PAD_GREY, np.uint8)
    placed = []
    for slot, (image, objects) in enumerate(tiles):
        height, width = image.shape[:2]
        left = x if slot % 2 else x - width
        top = y if slot // 2 else y - height
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, side), min(top + height, side)
        canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
        placed.append(objects.mapped((1, 1), (left, top)))
    return canvas, joined(placed).clipped((side, side))


def copy_paste(image: Image, objects: Objects, part: float, rng: Generator) -> tuple[Image, Objects]:
    """Paste mirrored copies of outlined objects where they hide little (https://arxiv.org/abs/2012.07177).

    Args:
        image: (h, w, 3).
        objects: Its objects; those with a polygon can be copied.
        part: Part of these to try, 0..1.
        rng: Source of the choice.

    Returns:
        A new image if anything was pasted, and the objects with the copies behind them.
    """
    outlined = np.array([i for i, points in enumerate(objects.polygons) if points is not None], np.intp)
    chosen = rng.choice(outlined, round(part * len(outlined)), replace=False) if part and len(outlined) else ()
    height, width = image.shape[:2]
    mirrored = objects.mapped((-1, 1), (width, 0))
    mask = np.zeros((height, width), np.uint8)
    copies: list[int] = []
    for i in chosen:
        present = np.concatenate((objects.boxes_xyxy, mirrored.boxes_xyxy[copies]))
        if (_covered(present, mirrored.boxes_xyxy[i]) < MAX_COVERED).all():
            copies.append(int(i))
            points = objects.polygons[i]
            assert points is not None
            cv2.fillPoly(mask, [points.astype(np.int32)], 1)
    if not copies:
        return image, objects
    return cv2.copyTo(cv2.flip(image, 1), cv2.flip(mask, 1), image.copy()), joined(
        (objects, mirrored.select(np.array(copies)))
    )


def _covered(boxes_xyxy: Floats, cover_xyxy: Floats) -> Floats:
    """(n,) part of each box (n, 4) that lies below another box (4,)."""
    low = np.maximum(boxes_xyxy[:, :2], cover_xyxy[:2])
    high = np.minimum(boxes_xyxy[:, 2:], cover_xyxy[2:])
    area = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)
    return (high - low).clip(0).prod(axis=1) / (area + 1e-7)


def mixup(scene: tuple[Image, Objects], other: tuple[Image, Objects], rng: Generator) -> tuple[Image, Objects]:
    """Blend two images of one shape; the objects of both count in full (https://arxiv.org/abs/1710.09412)."""
    weight = float(rng.beta(MIXUP_BETA, MIXUP_BETA))
    return cv2.addWeighted(scene[0], weight, other[0], 1 - weight, 0), joined((scene[1], other[1]))
