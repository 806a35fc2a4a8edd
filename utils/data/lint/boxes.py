"""Boxes that can be read but hardly mean what they say."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.data.labels import TOLERANCE, Array
from utils.data.lint.findings import Finding

SAME_BOX = 0.95
"""Intersection over union above which two boxes of an image are about the same object."""
TINY, TINY_IN_TRAINING = 3.0, 2.0
"""Pixels of the short side: of the image as it is, and as training sees it."""
GIANT = 0.99
"""Part of the width and of the height of the image."""
EXTREME = 20.0
"""Long side of a box in relation to its short one."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """Where the boxes of an image come from, for messages.

    Attributes:
        file: Label file or annotations.
        image: The image.
        lines: Line of each box; nothing where the annotations are not lines.
    """

    file: Path
    image: Path
    lines: list[int]


def check_boxes(boxes: Array, place: Place, shape: tuple[int, int], names: dict[int, str], imgsz: int) -> list[Finding]:
    """Look at the boxes of one image, each and pair by pair.

    Args:
        boxes: (n, 5) class, cx, cy, w, h as fractions of the image.
        place: Where they come from.
        shape: (h, w) of the image in pixels.
        names: Class names.
        imgsz: Pixels of the long side of the image in training.
    """
    corners = corners_of(boxes)
    size = np.array(shape[::-1], np.float64)
    titles = [_title(names[int(box[0])], box[1:] * np.tile(size, 2), place) for box in boxes]
    findings = []
    for row, (title, box) in enumerate(zip(titles, corners, strict=True)):
        told = [*_check_border(box), *_check_size(boxes[row, 3:] * size, shape, imgsz)]
        for kind, more, expected, remedy, weight in told:
            line = place.lines[row] if place.lines else None
            found = f"{title}, {more}"
            findings.append(Finding(place.file, line, found, expected, remedy, kind, (place.image,), (row,), weight))
    return [*findings, *_check_pairs(boxes[:, 0], corners, titles, place)]


def corners_of(boxes: Array) -> Floats:
    """(n, 4) x1, y1, x2, y2 of boxes (n, 5) class, cx, cy, w, h, in the same unit."""
    centres, halves = boxes[:, 1:3].astype(np.float64), boxes[:, 3:5].astype(np.float64) / 2
    return np.concatenate((centres - halves, centres + halves), axis=1)


def pairwise_iou(first: Floats, second: Floats) -> Floats:
    """(n, m) overlap of boxes (n, 4) and (m, 4), xyxy.

    That of `utils.boxes` would cost the import of torch, which takes longer than the check of a hundred images.
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = (high - low).clip(0).prod(axis=2)  # (n, m)
    areas, others = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second))
    return common / np.maximum(areas[:, None] + others - common, np.finfo(np.float64).tiny)


def _title(name: str, box: Floats, place: Place) -> str:
    x, y, w, h = box.tolist()
    where = "" if place.lines else f" around {x:.0f}, {y:.0f} in {place.image.name}"
    return f"a {name} of {w:.3g} x {h:.3g} pixels{where}"


def _check_border(box: Floats) -> Iterator[tuple[str, str, str, str, float]]:
    outside = float(max(-box.min(), box.max() - 1))
    if outside > TOLERANCE:
        told = f"{outside:.1%} of the image beyond its border"
        yield "box over the border", told, "a box inside the image", "cut it at the border", outside


def _check_size(size: Floats, shape: tuple[int, int], imgsz: int) -> Iterator[tuple[str, str, str, str, float]]:
    """Kind, found, expected, remedy and weight of what is wrong with a box of (w, h) pixels."""
    short, long = float(size.min()), float(size.max())
    seen = short * imgsz / max(shape)
    if short < TINY or seen < TINY_IN_TRAINING:
        expected = f"sides of {TINY:g} pixels or more, and of {TINY_IN_TRAINING:g} at --imgsz {imgsz}"
        yield "tiny box", f"its short side {seen:.2g} in training", expected, "delete it, or train larger", -seen
    elif long > EXTREME * short:
        ratio = long / short
        expected = f"a long side of at most {EXTREME:g} times the short one"
        yield "extreme shape", f"{ratio:.0f} times as long", expected, "check its corners", ratio
    part = float(min(size[0] / shape[1], size[1] / shape[0]))
    if part > GIANT:
        yield "giant box", "the whole image", "a box around one object", "see that it is no placeholder", part


def _check_pairs(classes: Array, corners: Floats, titles: list[str], place: Place) -> Iterator[Finding]:
    """Pairs of boxes that are about the same; the line is that of the second."""
    overlap = pairwise_iou(corners, corners)
    for first, second in np.argwhere(np.triu(overlap > SAME_BOX, k=1)).tolist():
        iou = float(overlap[first, second])
        where = f" of line {place.lines[first]}" if place.lines else ""
        found = f"{titles[second]}, with IoU {iou:.3f} to {titles[first].split(' pixels')[0]}{where}"
        kind, expected = "overlapping boxes", "each object once"
        if classes[first] != classes[second]:
            kind, expected = "two classes in one box", "one class for an object"
        line = place.lines[second] if place.lines else None
        told = (found, expected, "delete one of them, unless both are right")
        yield Finding(place.file, line, *told, kind, (place.image,), (first, second), iou)
