"""The built-in data set: cluttered pictures of six shapes, drawn on first use, so that all works without a network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from tqdm import tqdm

from utils.data.folder import new_folder

Image = NDArray[Any]  # float32 (h, w, 3) 0..255 while a picture is painted
Contour = NDArray[Any]  # float64 (k, 2), the object's own x, y; its farthest point is at 1 or a little less

SIZES = ((320, 320), (256, 320), (320, 256), (288, 320), (240, 352))  # (h, w)
MIN_VISIBLE = 0.3  # of an object's area; with less it is not labelled
_MIN_SIDE, _MIN_AREA = 20, 90  # px; of an object drawn: thin ones are longer
_BACKGROUNDS = 0.06  # part of the pictures without objects


def make_shapes(root: Path, *, seed: int = 0, train: int = 700, val: int = 120, test: int = 40) -> None:
    """Draw the data set: images/<split>/*.jpg and labels/<split>/*.txt in YOLO format.

    Each picture depends only on the seed, its split and its number. Boxes are the tight extent of the visible pixels
    of an object; objects of which less than `MIN_VISIBLE` is seen have no label.

    Args:
        root: Folder to make; nothing is there before all is drawn.
        seed: Of all randomness.
        train: Number of pictures of this split.
        val: Same.
        test: Same.

    Raises:
        UserError: If `root` exists.
    """
    counts = {"train": train, "val": val, "test": test}
    with new_folder(root) as folder, tqdm(total=sum(counts.values()), desc="drawing shapes", unit="img") as bar:
        for number, (split, count) in enumerate(counts.items()):
            images, labels = folder / "images" / split, folder / "labels" / split
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for i in range(count):
                picture, boxes = draw_picture(np.random.default_rng([seed, number, i]))
                content = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
                (images / f"{i:06d}.jpg").write_bytes(content)
                rows = "".join(f"{int(c)} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for c, x, y, w, h in boxes)
                (labels / f"{i:06d}.txt").write_text(rows, encoding="utf-8")
                bar.update()


def draw_picture(rng: Generator) -> tuple[Image, NDArray[Any]]:
    """Draw one picture.

    Args:
        rng: Where all of its properties come from.

    Returns:
        The picture, uint8 (h, w, 3) BGR, and its boxes (n, 5) class, cx, cy, w, h as fractions of it.
    """
    height, width = SIZES[rng.integers(len(SIZES))]
    canvas = _background(rng, height, width)
    masks: list[NDArray[Any]] = []  # visible pixels of each object painted so far
    areas: list[float] = []  # px of each object, also where it is covered or outside
    classes: list[int] = []
    count = 0 if rng.random() < _BACKGROUNDS else int(rng.integers(1, 8))
    for _ in range(count):
        cls = int(rng.integers(len(_SHAPES)))
        radius = _random_radius(rng, min(height, width))
        centre = rng.uniform(0.04, 0.96, 2) * (width, height)
        todo = [(cls, radius, centre)]
        if _SHAPES[cls] is _ring and radius > 30 and rng.random() < 0.4:  # something inside the hole
            todo.append((int(rng.integers(len(_SHAPES))), radius * rng.uniform(0.25, 0.4), centre))
        for cls_, radius_, centre_ in todo:
            contours = _SHAPES[cls_](rng)
            smallest = (_MIN_AREA / _area(contours)) ** 0.5
            alpha, area = _paint(rng, canvas, contours, centre_, max(radius_, smallest), _HUES[cls_])
            covered = alpha > 0.5
            masks = [mask & ~covered for mask in masks] + [covered]
            areas.append(area)
            classes.append(cls_)
    boxes = [
        [cls, *_tight_box(mask)]
        for cls, mask, area in zip(classes, masks, areas, strict=True)
        if mask.sum() > MIN_VISIBLE * area
    ]
    return _photograph(rng, canvas), np.array(boxes, np.float64).reshape(-1, 5)


def _random_radius(rng: Generator, side: int) -> float:
    """Half of the longest extent, px: as many small objects as large ones."""
    return float(np.exp(rng.uniform(np.log(_MIN_SIDE / 2), np.log(side / 2.8))))


def _area(contours: list[Contour]) -> float:
    outer, *holes = (cv2.contourArea(contour.astype(np.float32)) for contour in contours)
    return float(outer - sum(holes))


def _tight_box(mask: NDArray[Any]) -> tuple[float, float, float, float]:
    """cx, cy, w, h of the true pixels as fractions of the mask's size."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    return (
        (left + right) / 2 / width,
        (top + bottom) / 2 / height,
        (right - left) / width,
        (bottom - top) / height,
    )


# Shapes: one or more contours; a second one inside the first is a hole.


def _rod(rng: Generator) -> list[Contour]:
    half = rng.uniform(0.1, 0.2)
    cap = np.linspace(-np.pi / 2, np.pi / 2, 7) if rng.random() < 0.5 else np.array([-np.pi / 2, np.pi / 2])
    right = np.stack([1 - half + half * np.cos(cap), half * np.sin(cap)], axis=1)
    return [np.concatenate([right, -right])]


def _ring(rng: Generator) -> list[Contour]:
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    outer = np.stack([np.cos(angle), rng.uniform(0.65, 1) * np.sin(angle)], axis=1)
    return [outer, rng.uniform(0.5, 0.75) * outer]


def _crescent(rng: Generator) -> list[Contour]:
    """A disc without another one: the outer arc from tip to tip, and back along the inner arc."""
    tip = rng.uniform(0.5, 0.95)  # angle of the tips from the side of the opening, rad
    outer = np.linspace(tip, 2 * np.pi - tip, 48)
    shift = rng.uniform(0.3, 0.5)
    x, y = np.cos(tip) - shift, np.sin(tip)  # a tip, seen from the centre of the inner arc
    inner = np.linspace(2 * np.pi - np.arctan2(y, x), np.arctan2(y, x), 48)
    back = np.stack([shift + np.hypot(x, y) * np.cos(inner), np.hypot(x, y) * np.sin(inner)], axis=1)
    return [np.concatenate([np.stack([np.cos(outer), np.sin(outer)], axis=1), back])]


def _star(rng: Generator) -> list[Contour]:
    points = int(rng.integers(4, 8))
    radius = np.tile([1, rng.uniform(0.36, 0.5)], points)
    angle = np.arange(2 * points) * np.pi / points
    return [radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)]


def _wedge(rng: Generator) -> list[Contour]:
    angle = np.array([0, 2 * np.pi / 3, 4 * np.pi / 3]) + rng.uniform(-0.35, 0.35, 3)
    return [np.stack([np.cos(angle), np.sin(angle)], axis=1)]


def _leaf(rng: Generator) -> list[Contour]:
    """Two arcs between two tips, bent a little."""
    x = np.linspace(-1, 1, 32)
    y = rng.uniform(0.3, 0.5) * (1 - x**2) ** 0.9
    bend = rng.uniform(-0.2, 0.2) * (x**2 - 0.5)
    upper, lower = np.stack([x, bend + y], axis=1), np.stack([x, bend - y], axis=1)
    return [np.concatenate([upper, lower[-2:0:-1]])]


_SHAPES: tuple[Callable[[Generator], list[Contour]], ...] = (_rod, _ring, _crescent, _star, _wedge, _leaf)
CLASSES = ("rod", "ring", "crescent", "star", "wedge", "leaf")
_HUES = (10, 150, 28, 95, 120, 60)
"""Usual hue of each class, 0..180: things have their colours, but every fourth one has any, as all clutter has."""


# Painting: all on a float32 canvas, in place.


def _paint(
    rng: Generator,
    canvas: Image,
    contours: list[Contour],
    centre: NDArray[Any],
    radius: float,
    hue: int | None = None,
) -> tuple[Image, float]:
    """Paint one object, turned at random, with its shadow.

    Returns:
        Its opacity 0..1 (h, w) on the canvas, before it is made translucent, and its whole area in px.
    """
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    squeeze = np.array([1, rng.uniform(0.85, 1)])
    margin = int(0.35 * radius) + 4  # room for the shadow
    half = int(radius) + margin
    left, top = (np.floor(centre) - half).astype(int)
    patch_side = 2 * half
    points = [(contour * squeeze) @ turn * radius + centre - (left, top) for contour in contours]
    solid = _fill(points, patch_side)
    area = float(solid.sum())

    # the part of the patch that is on the canvas
    height, width = canvas.shape[:2]
    y0, y1, x0, x1 = max(top, 0), min(top + patch_side, height), max(left, 0), min(left + patch_side, width)
    inside = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    ground = canvas[y0:y1, x0:x1]

    if rng.random() < 0.6:
        shadow = cv2.GaussianBlur(solid, (0, 0), 0.06 * radius + 1)
        shift = np.rint(rng.uniform(-0.15, 0.15, 2) * radius).astype(int)
        shadow = np.roll(shadow, shift, axis=(0, 1))[inside]
        _blend(ground, np.zeros(3), np.float32(rng.uniform(0.2, 0.6)) * shadow)
    _blend(ground, _surface(rng, solid, radius, hue)[inside], np.float32(rng.uniform(0.82, 1)) * solid[inside])

    alpha = np.zeros((height, width), np.float32)
    alpha[y0:y1, x0:x1] = solid[inside]
    return alpha, area


def _blend(ground: Image, paint: Image, opacity: Image) -> None:
    """Lay paint, (3,) or (h, w, 3), on the ground, as much as the opacity (h, w) says."""
    for channel in range(3):  # broadcasting along an axis of 3 takes numpy three times as long
        part = ground[..., channel]
        part += opacity * (paint[..., channel] - part)


def _fill(points: list[Contour], side: int) -> Image:
    """Antialiased inside of the contours, 0..1 (side, side): drawn larger and averaged."""
    factor = 4 if side < 160 else 2
    large = np.zeros((side * factor, side * factor), np.uint8)
    cv2.fillPoly(large, [np.rint(p * factor * 16 - 8).astype(np.int32) for p in points], 255, shift=4)
    return cv2.resize(large, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _surface(rng: Generator, solid: Image, radius: float, hue: int | None) -> Image:
    """Colour of an object: two colours mixed by a texture, lit from one side, perhaps with an outline."""
    side = len(solid)
    usual = hue if hue is not None and rng.random() < 0.75 else int(rng.integers(180))
    first, second = _paint_colour(rng, usual), _paint_colour(rng, usual)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    kind = rng.integers(4)
    if kind == 0:
        mix = np.full((side, side), rng.uniform(0, 0.2), np.float32)
    elif kind == 1:
        mix = 0.5 + 0.5 * along
    elif kind == 2:
        mix = 0.5 + 0.4 * np.sin(along * np.float32(rng.uniform(4, 22)) + np.float32(rng.uniform(0, 6)))
    else:
        mix = _clouds(rng, side, side, octaves=4, keep=0.7)
    paint = np.empty((side, side, 3), np.float32)
    paint[:] = first
    _blend(paint, second, mix)
    light = 1 + np.float32(rng.uniform(0, 0.35)) * along
    if rng.random() < 0.5:  # rounded: darker towards the edge
        depth = cv2.GaussianBlur(solid, (0, 0), 0.12 * radius + 0.5)
        light = light * (0.55 + 0.45 * depth)
    _blend(paint, np.zeros(3), 1 - light)
    if rng.random() < 0.35:
        edge = solid - cv2.erode(solid, np.ones((3, 3), np.uint8), iterations=max(1, round(0.04 * radius)))
        _blend(paint, _colour(rng), edge)
    return paint


def _colour(rng: Generator) -> Image:
    """BGR of the surroundings, all hues, mostly dull, from dark to bright."""
    return _bgr(rng.uniform(0, 180), 170 * rng.beta(1, 2), rng.uniform(40, 256))


def _paint_colour(rng: Generator, hue: int) -> Image:
    """BGR of an object, about a hue, rather vivid."""
    return _bgr(rng.normal(hue, 6) % 180, rng.uniform(110, 256), rng.uniform(100, 256))


def _bgr(*hsv: float) -> Image:
    pixel = np.array([[hsv]]).astype(np.uint8)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)


def _clouds(rng: Generator, height: int, width: int, *, octaves: int, coarsest: int = 2, keep: float = 0.5) -> Image:
    """Smooth random field 0..1 (height, width): random grids, each twice as fine and `keep` as strong as the last."""
    field = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cells = coarsest * 2**octave
        grid = rng.random((cells + 1, cells + 1), dtype=np.float32) * np.float32(keep**octave)
        field += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = float(field.min()), float(field.max())
    return (field - low) / (high - low)


def _background(rng: Generator, height: int, width: int) -> Image:
    """Clutter: surfaces of cloudy colours, soft spots, glyphs and lines, none of which is one of the shapes."""
    canvas: Image = np.empty((height, width, 3), np.float32)
    canvas[:] = _colour(rng)
    for _ in range(rng.integers(1, 4)):
        octaves, coarsest, keep = int(rng.integers(3, 7)), int(rng.integers(1, 6)), rng.uniform(0.4, 0.85)
        texture = _clouds(rng, height, width, octaves=octaves, coarsest=coarsest, keep=keep)
        _blend(canvas, _colour(rng), texture * _half_plane(rng, height, width))
    for _ in range(rng.integers(0, 5)):
        _spot(rng, canvas)
    for _ in range(rng.integers(0, 7)):
        _CLUTTER[rng.integers(len(_CLUTTER))](rng, canvas)
    if rng.random() < 0.5:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1.4))
    return canvas


def _half_plane(rng: Generator, height: int, width: int) -> Image:
    """0 on one side of a random straight edge and 1 on the other, sharp like a table's or soft like a shadow's."""
    y, x = np.ogrid[:height, :width]
    angle, softness = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(0, 5))
    right = (x - rng.uniform(0, width)) * (np.cos(angle) / softness)
    down = (y - rng.uniform(0, height)) * (np.sin(angle) / softness) + 0.5
    return np.clip(right.astype(np.float32) + down.astype(np.float32), 0, 1)


def _spot(rng: Generator, canvas: Image) -> None:
    """A soft light or shadow without an edge."""
    height, width = canvas.shape[:2]
    y, x = np.ogrid[:height, :width]
    cx, cy = rng.uniform(0, width), rng.uniform(0, height)
    rx, ry = rng.uniform(10, 90, 2)
    weight = np.exp(-(((x - cx) / rx) ** 2)) * np.exp(-(((y - cy) / ry) ** 2))
    _blend(canvas, _colour(rng), np.float32(rng.uniform(0.3, 0.8)) * weight.astype(np.float32))


def _squiggle(rng: Generator, canvas: Image) -> None:
    """A line of many bends across a part of the picture."""
    steps = np.cumsum(rng.normal(0, 0.5, 30))
    path = np.cumsum(np.stack([np.cos(steps), np.sin(steps)], axis=1), axis=0) * rng.uniform(2, 9)
    _stroke(rng, canvas, path, int(rng.integers(1, 4)))


def _glyph(rng: Generator, canvas: Image) -> None:
    """Straight strokes between the points of a small grid, like a letter that nobody knows."""
    size = rng.uniform(5, 30)
    points = rng.permutation(9)[: rng.integers(4, 7)]
    path = np.stack([points % 3, points // 3], axis=1) * (0.7 * size, size)
    _stroke(rng, canvas, path, int(rng.integers(1, 2 + int(size) // 5)))


def _stroke(rng: Generator, canvas: Image, path: Contour, thickness: int) -> None:
    """Paint a line (k, 2) of relative x, y somewhere."""
    height, width = canvas.shape[:2]
    points = np.rint(path + rng.uniform(0, 0.9, 2) * (width, height)).astype(np.int32)
    mask = np.zeros((height, width), np.uint8)  # OpenCV draws smooth lines on 8 bits only
    cv2.polylines(mask, [points], False, 255, thickness, cv2.LINE_AA)
    x, y, w, h = cv2.boundingRect(mask)
    _blend(canvas[y : y + h, x : x + w], _colour(rng), mask[y : y + h, x : x + w] / np.float32(255))


def _block(rng: Generator, canvas: Image) -> None:
    """A full disc or a square: neither a ring nor a rod."""
    height, width = canvas.shape[:2]
    centre = rng.uniform(0, 1, 2) * (width, height)
    radius, angle = rng.uniform(4, 40), rng.uniform(0, 2 * np.pi)
    corners = 4 if rng.random() < 0.5 else 40
    turns = angle + np.arange(corners) * 2 * np.pi / corners
    _paint(rng, canvas, [np.stack([np.cos(turns), np.sin(turns)], axis=1)], centre, float(radius))


_CLUTTER: tuple[Callable[[Generator, Image], None], ...] = (_squiggle, _glyph, _block)


def _photograph(rng: Generator, canvas: Image) -> Image:
    """Uneven light, exposure, a colour cast, a lens that is not quite sharp, and the noise of the sensor."""
    height, width = canvas.shape[:2]
    unevenness = rng.uniform(0, 0.5) * (_clouds(rng, height, width, octaves=1, coarsest=1) - 0.5)
    light = rng.uniform(0.75, 1.2) * (1 + unevenness)
    _blend(canvas, np.zeros(3), 1 - light.astype(np.float32))
    canvas *= rng.uniform(0.92, 1.08, 3).astype(np.float32)
    if rng.random() < 0.4:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 0.9))
    noise = rng.standard_normal(canvas.shape, dtype=np.float32)
    noise *= np.float32(rng.uniform(1, 8))
    canvas += noise
    return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)
