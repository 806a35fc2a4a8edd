"""Random changes to one training image and its objects; every random number comes from a generator passed in."""

from typing import Protocol

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from utils.data.canvas import Canvas
from utils.data.images import PAD_COLOUR, Image
from utils.data.objects import Floats, Objects

MIN_SIDE = 2.0
"""Pixels that both sides of a moved box must exceed."""
MIN_AREA_LEFT = 0.1
"""Part of its area that a moved box must keep."""
MIN_AREA_LEFT_OUTLINED = 0.01
"""The same for a box around an outline, which is tight again after the move."""
MAX_ASPECT = 100.0
"""Ratio of the sides that a moved box must stay below."""
OUTLINE_POINTS = 1000
"""Points that an outline is resampled to, so that what is left of it inside the image is bounded closely."""


class AugmentationParameters(Protocol):
    """The hyperparameters that say what to change, how often and how much."""

    @property
    def hsv_h(self) -> float:
        """Half range of the gain of the hue around 1."""

    @property
    def hsv_s(self) -> float:
        """Half range of the gain of the saturation around 1."""

    @property
    def hsv_v(self) -> float:
        """Half range of the gain of the brightness around 1."""

    @property
    def degrees(self) -> float:
        """Half range of the rotation, degrees."""

    @property
    def translate(self) -> float:
        """Half range of the shift, parts of the output's size."""

    @property
    def scale(self) -> float:
        """Half range of the zoom around 1."""

    @property
    def shear(self) -> float:
        """Half range of the shear along each axis, degrees."""

    @property
    def perspective(self) -> float:
        """Half range of the perspective terms, 1 / pixel; at most about 0.001."""

    @property
    def flipud(self) -> float:
        """Probability of a flip upside down."""

    @property
    def fliplr(self) -> float:
        """Probability of a flip left to right."""

    @property
    def mosaic(self) -> float:
        """Probability of a mosaic of four images."""

    @property
    def mixup(self) -> float:
        """Probability that a mosaic is blended with a second one."""

    @property
    def copy_paste(self) -> float:
        """Part of a mosaic's outlined objects to try to copy."""


def random_affine(
    canvas: Canvas, objects: Objects, hyp: AugmentationParameters, rng: Generator, shape: tuple[int, int]
) -> tuple[Image, Objects]:
    """Rotate, zoom, shear, tilt and shift a scene about its centre into an image of another size.

    Args:
        canvas: The scene.
        objects: Its objects.
        hyp: Half ranges.
        rng: Source of the eight random numbers, drawn in any case.
        shape: (h, w) of the result.

    Returns:
        The image and the objects that are still worth learning, without their outlines.
    """
    matrix, zoom = _random_matrix(canvas.shape, shape, hyp, rng)
    window = _window(matrix, canvas.shape, shape)
    if window is None:
        image = _warp(canvas, matrix, shape)
    else:
        image, matrix = zoom_window(canvas, window, shape)
    size = float(shape[1]), float(shape[0])
    boxes = _move_boxes(objects, matrix, size)
    outlined = np.array([points is not None for points in objects.polygons], bool)
    keep = worth_keeping(objects.boxes_xyxy * np.float32(zoom), boxes, outlined)
    return image, Objects(objects.classes, boxes, [None] * len(objects)).select(keep)


def _random_matrix(
    shape: tuple[int, ...], new_shape: tuple[int, int], hyp: AugmentationParameters, rng: Generator
) -> tuple[NDArray[np.float64], float]:
    """(3, 3) map of points from an image of `shape` to one of `new_shape`, and its zoom."""

    def around(middle: float, half_range: float) -> float:
        return float(rng.uniform(middle - half_range, middle + half_range))

    centre, tilt, shear, shift = np.eye(3), np.eye(3), np.eye(3), np.eye(3)
    centre[:2, 2] = -shape[1] / 2, -shape[0] / 2
    tilt[2, :2] = around(0, hyp.perspective), around(0, hyp.perspective)
    angle, zoom = np.radians(around(0, hyp.degrees)), around(1, hyp.scale)
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    rotation = np.array(((cos, sin, 0), (-sin, cos, 0), (0, 0, 1)))  # counter-clockwise, as y points down
    shear[0, 1], shear[1, 0] = np.tan(np.radians(around(0, hyp.shear))), np.tan(np.radians(around(0, hyp.shear)))
    shift[:2, 2] = around(0.5, hyp.translate) * new_shape[1], around(0.5, hyp.translate) * new_shape[0]
    return shift @ shear @ rotation @ tilt @ centre, zoom


def _window(
    matrix: NDArray[np.float64], old_shape: tuple[int, int], shape: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """The part of a scene that becomes the image: left, top, right, bottom, rounded to whole pixels.

    Whole pixels, because then `cv2.resize` does in a fifth of the time what `cv2.warpAffine` does. Both interpolate
    linearly, and the random zoom and shift change by less than a pixel at the edges of the window.

    Returns:
        None where that will not do: turned, sheared or tilted scenes, and windows much larger than the scene.
    """
    if matrix[0, 1] or matrix[1, 0] or matrix[2, :2].any():
        return None
    corner = []
    sides = []
    for axis, side in enumerate((shape[1], shape[0])):
        zoom, shift = matrix[axis, axis], matrix[axis, 2]
        sides.append(max(round(side / zoom), 1))
        corner.append(round((side / 2 - shift) / zoom - sides[axis] / 2))
    if sides[0] > 2 * old_shape[1] or sides[1] > 2 * old_shape[0]:
        return None
    return corner[0], corner[1], corner[0] + sides[0], corner[1] + sides[1]


def zoom_window(
    canvas: Canvas, window: tuple[int, int, int, int], shape: tuple[int, int]
) -> tuple[Image, NDArray[np.float64]]:
    """What is in a window, resized to `shape`, and the map of points that belongs to it.

    At the very edge, `cv2.resize` repeats the last pixels of the window instead of looking beyond it.
    """
    left, top, right, bottom = window
    image = canvas.window(left, top, right, bottom)
    if image.shape[:2] != shape:
        image = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_LINEAR)
    x, y = shape[1] / (right - left), shape[0] / (bottom - top)
    return image, np.array(((x, 0, -left * x), (0, y, -top * y), (0, 0, 1)))


def _warp(canvas: Canvas, matrix: NDArray[np.float64], shape: tuple[int, int]) -> Image:
    """The scene at moved points; grey where nothing of it lands."""
    left, top, right, bottom = _seen(matrix, canvas.shape, shape)
    image = canvas.window(left, top, right, bottom)
    # Boxes put the centre of the first pixel at 0.5, OpenCV puts it at 0.
    half, start = np.eye(3), np.eye(3)
    half[:2, 2], start[:2, 2] = 0.5, (left, top)
    matrix = np.linalg.inv(half) @ matrix @ start @ half
    height, width = shape
    if matrix[2, :2].any():
        return cv2.warpPerspective(image, matrix, (width, height), borderValue=PAD_COLOUR)
    return cv2.warpAffine(image, matrix[:2], (width, height), borderValue=PAD_COLOUR)


def _seen(matrix: NDArray[np.float64], old_shape: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """The part of a scene that can matter for the image: left, top, right, bottom, at least one pixel."""
    height, width = old_shape
    if matrix[2, :2].any():  # what a tilted scene shows may be bounded by the horizon
        return 0, 0, width, height
    x, y = shape[1], shape[0]
    corners = _move(np.array(((0, 0), (x, 0), (0, y), (x, y)), np.float64), np.linalg.inv(matrix).astype(np.float64))
    (left, top), (right, bottom) = np.floor(corners.min(axis=0)) - 2, np.ceil(corners.max(axis=0)) + 2
    x1, y1 = int(np.clip(left, 0, width - 1)), int(np.clip(top, 0, height - 1))
    return x1, y1, int(np.clip(right, x1 + 1, width)), int(np.clip(bottom, y1 + 1, height))


def _move_boxes(objects: Objects, matrix: NDArray[np.float64], size: tuple[float, float]) -> Floats:
    """(n, 4) upright boxes around what is left of the moved objects in an image of `size` (w, h).

    An outline gives a tight box, the corners of a box give a roomy one; an object outside gets a box without area.
    """
    boxes = np.zeros((len(objects), 4), np.float32)
    limit = np.array(size)
    outlined = [i for i, points in enumerate(objects.polygons) if points is not None]
    plain = [i for i, points in enumerate(objects.polygons) if points is None]
    if plain:
        corners = _move(objects.boxes_xyxy[plain][:, (0, 1, 2, 1, 2, 3, 0, 3)].reshape(-1, 4, 2), matrix)
        corners = corners.clip(0, limit)  # (n, 4, 2)
        boxes[plain] = np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1)
    if outlined:
        points = _move(
            np.stack([resample(points) for points in objects.polygons if points is not None]), matrix
        )  # (n, k, 2)
        inside = np.all((points >= 0) & (points <= limit), axis=2, keepdims=True)  # (n, k, 1)
        low = np.where(inside, points, np.inf).min(axis=1)
        high = np.where(inside, points, -np.inf).max(axis=1)
        boxes[outlined] = np.where(np.any(inside, axis=1), np.concatenate((low, high), axis=1), 0)
    return boxes


def _move(points: NDArray[np.floating], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 2) points after a homogeneous map (3, 3); one beyond the horizon goes far out, not to the other side."""
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return moved[..., :2] / moved[..., 2:].clip(min=1e-6)


def resample(polygon: Floats) -> Floats:
    """A closed outline as `OUTLINE_POINTS` points, spread evenly over its edges.

    Args:
        polygon: (k, 2), the last point not repeated.

    Returns:
        (OUTLINE_POINTS, 2).
    """
    closed = np.concatenate((polygon, polygon[:1]))
    known, wanted = np.arange(len(closed)), np.linspace(0, len(polygon), OUTLINE_POINTS)
    return np.stack([np.interp(wanted, known, closed[:, axis]) for axis in (0, 1)], axis=1).astype(np.float32)


def worth_keeping(before: Floats, after: Floats, outlined: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which moved boxes still show enough of their object.

    Args:
        before: (n, 4) xyxy with the zoom applied, pixels.
        after: (n, 4) xyxy cut at the border, pixels.
        outlined: (n,) Whether `after` bounds an outline.

    Returns:
        (n,) mask.
    """
    width, height = (before[:, 2:] - before[:, :2]).T
    new_width, new_height = (after[:, 2:] - after[:, :2]).T
    eps = 1e-16
    area_left = new_width * new_height / (width * height + eps)
    aspect = np.maximum(new_width / (new_height + eps), new_height / (new_width + eps))
    least = np.where(outlined, MIN_AREA_LEFT_OUTLINED, MIN_AREA_LEFT)
    return (new_width > MIN_SIDE) & (new_height > MIN_SIDE) & (area_left > least) & (aspect < MAX_ASPECT)


def jitter_colours(image: Image, hyp: AugmentationParameters, rng: Generator) -> Image:
    """Multiply hue, saturation and brightness by random gains; nothing is drawn if all half ranges are zero."""
    half_ranges = np.array((hyp.hsv_h, hyp.hsv_s, hyp.hsv_v))
    if not half_ranges.any():
        return image
    gains = 1 + rng.uniform(-1, 1, 3) * half_ranges
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    cv2.LUT(hsv, colour_table(gains), dst=hsv)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR, dst=hsv)


def colour_table(gains: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(256, 1, 3) new hue (OpenCV's 0..179), saturation and value of each level, for three gains."""
    table = np.arange(256)[:, None] * gains  # (256, 3)
    table[:, 0] %= 180
    return table.clip(0, 255).astype(np.uint8)[:, None]


def random_flip(image: Image, objects: Objects, hyp: AugmentationParameters, rng: Generator) -> tuple[Image, Objects]:
    """Turn an image upside down, left to right, both or neither."""
    height, width = image.shape[:2]
    if rng.random() < hyp.flipud:
        image, objects = cv2.flip(image, 0), objects.mapped((1, -1), (0, height))
    if rng.random() < hyp.fliplr:
        image, objects = cv2.flip(image, 1), objects.mapped((-1, 1), (width, 0))
    return image, objects
