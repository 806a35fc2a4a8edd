"""New training scenes made of several images: mosaic, copy-paste and mixup."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.random import Generator

from utils.data.canvas import Canvas, Picture
from utils.data.images import Image
from utils.data.objects import Floats, Objects, joined

MAX_COVERED = 0.3
"""Part of an object that a pasted copy may cover."""
MIXUP_BETA = 32.0
"""Both parameters of the beta distribution of the blend: close to half and half."""


def mosaic(pictures: Sequence[tuple[Picture, Objects]], size: int, rng: Generator) -> tuple[Canvas, Objects]:
    """Four pictures around a random point of a canvas twice as large (https://arxiv.org/abs/2004.10934).

    Args:
        pictures: With a long side of `size` at most, and their objects: top left, top right, bottom left, bottom right.
            What of a picture lies beyond the canvas is cut off.
        size: Pixels of the side of the network input.
        rng: Source of the point, which lies in the middle half of the canvas.

    Returns:
        (2 size, 2 size) canvas and its objects, clipped to it.
    """
    y, x = (int(rng.uniform(size / 2, 3 * size / 2)) for _ in range(2))
    corners = []
    for slot, (picture, _) in enumerate(pictures):
        height, width = picture.shape
        corners.append((x if slot % 2 else x - width, y if slot // 2 else y - height))
    return _scene(pictures, corners, 2 * size)


def mosaic9(pictures: Sequence[tuple[Picture, Objects]], size: int, rng: Generator) -> tuple[Canvas, Objects]:
    """Nine pictures, one in the middle and eight around it, seen through a window at a random place.

    Each of the eight touches the one before; where two overlap, the later one is on top.

    Args:
        pictures: With a long side of `size` at most, and their objects: the middle, then clockwise from the top.
        size: Pixels of the side of the network input; the window is twice as large.
        rng: Source of the place.

    Returns:
        (2 size, 2 size) canvas and its objects, clipped to it.
    """
    top, left = (int(rng.uniform(0, size)) for _ in range(2))
    (h0, w0), *around = (picture.shape for picture, _ in pictures)
    previous = [(h0, w0), *around]
    corners = [(0, 0)]  # relative to the middle picture
    for slot, ((h, w), (hp, wp)) in enumerate(zip(around, previous, strict=False)):
        corners.append(
            (
                (0, -h),
                (wp, -h),
                (w0, 0),
                (w0, hp),
                (w0 - w, h0),
                (w0 - wp - w, h0),
                (-w, h0 - h),
                (-w, h0 - hp - h),
            )[slot]
        )
    return _scene(pictures, [(size + x - left, size + y - top) for x, y in corners], 2 * size)


def _scene(
    pictures: Sequence[tuple[Picture, Objects]], corners: Sequence[tuple[int, int]], side: int
) -> tuple[Canvas, Objects]:
    """A square canvas with pictures at (left, top) corners, and the objects of all."""
    placed = [objects.mapped((1, 1), corner) for (_, objects), corner in zip(pictures, corners, strict=True)]
    tiles = [(picture, corner) for (picture, _), corner in zip(pictures, corners, strict=True)]
    return Canvas((side, side), tiles), joined(placed).clipped((side, side))


def copy_paste(canvas: Canvas, objects: Objects, part: float, rng: Generator) -> tuple[Canvas, Objects]:
    """Paste mirrored copies of outlined objects where they hide little (https://arxiv.org/abs/2012.07177).

    Args:
        canvas: The scene.
        objects: Its objects; those with a polygon can be copied.
        part: Part of these to try, 0..1.
        rng: Source of the choice.

    Returns:
        A new scene if anything was pasted, and the objects with the copies behind them.
    """
    outlined = np.array([i for i, points in enumerate(objects.polygons) if points is not None], np.intp)
    chosen = rng.choice(outlined, round(part * len(outlined)), replace=False) if part and len(outlined) else ()
    height, width = canvas.shape
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
        return canvas, objects
    image = canvas.whole()
    pasted = cv2.copyTo(cv2.flip(image, 1), cv2.flip(mask, 1), image.copy())
    return Canvas.of(pasted), joined((objects, mirrored.select(np.array(copies))))


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
