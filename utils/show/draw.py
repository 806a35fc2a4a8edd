"""Detections drawn into an image."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from utils.show.fonts import font_for, one_line

if TYPE_CHECKING:  # drawing needs no torch, whose import takes longer than most pictures
    from utils.nms import Detections

Colour = tuple[int, int, int]
"""Blue, green, red, each from 0 to 255."""

_PALETTE = bytes.fromhex(
    "ff5c1f 2f6bff 1fc94f eb2fd0 ffcc33 12c2d6 d0103a 8a4dff 9ad91f 0e7a5f "
    "ff9ad5 a35c00 7fb8ff 8f4785 c28f00 3df5bd 4b4fc4 ff7d7d 5f8f2f c49aff"
)

_USUAL_SHORT_SIDE = 300, 800
"""Pixels; images within this range are drawn with the line thickness asked for, others in proportion."""


def colour_of(index: int) -> Colour:
    """The colour of a class; after twenty classes the colours repeat.

    Args:
        index: Class index.

    Returns:
        (blue, green, red).
    """
    start = 3 * index % len(_PALETTE)
    red, green, blue = _PALETTE[start : start + 3]
    return blue, green, red


def draw_detections(
    image: NDArray[np.uint8],
    detections: "Detections",
    names: Mapping[int, str],
    *,
    line_thickness: int = 3,
    hide_labels: bool = False,
    hide_conf: bool = False,
) -> NDArray[np.uint8]:
    """A copy of an image with its detections: all boxes, then all labels, each with the most confident last and on top.

    A label stands above its box if there is room, else inside. Lines and text shrink in a small image and grow in a
    large one, so that both stay legible.

    Args:
        image: BGR (h, w, 3).
        detections: Boxes in pixels of `image`, most confident first.
        names: Class index to name.
        line_thickness: Pixels, for an image whose short side is between 300 and 800 pixels.
        hide_labels: Draw boxes only.
        hide_conf: Write the name without the confidence.

    Returns:
        BGR (h, w, 3), a new array.
    """
    canvas = image.copy()
    low, high = _USUAL_SHORT_SIDE
    short = min(image.shape[:2])
    scale = short / float(np.clip(short, low, high))
    line = max(1, round(line_thickness * scale))
    text_size = max(10, round(5 * line_thickness * scale))
    corners = [tuple(map(round, box)) for box in detections.xyxy.tolist()]
    found = list(zip(corners, detections.conf.tolist(), detections.cls.tolist(), strict=True))[::-1]
    for box, _, cls in found:
        _outline(canvas, box, colour_of(cls), line)
    if not hide_labels:  # after all boxes, so that no line crosses a text
        for (x1, y1, *_), conf, cls in found:
            name = one_line(names[cls])
            text = name if hide_conf else f"{name} {conf:.2f}"
            _paste(canvas, _label(text, text_size, colour_of(cls)), (x1 - line // 2, y1 - line // 2), line)
    return canvas


def _outline(canvas: NDArray[np.uint8], corners: tuple[int, ...], colour: Colour, line: int) -> None:
    """Draw the lines of a box, all of them inside the image; OpenCV draws lines of 3 pixels 5 pixels wide."""
    h, w = canvas.shape[:2]
    x1, y1, x2, y2 = corners
    left, top = max(x1 - line // 2, 0), max(y1 - line // 2, 0)
    right, bottom = min(x2 + (line + 1) // 2, w), min(y2 + (line + 1) // 2, h)
    if left < right and top < bottom:
        box = canvas[top:bottom, left:right]
        box[:line] = box[-line:] = box[:, :line] = box[:, -line:] = colour


@functools.lru_cache(maxsize=1024)
def _label(text: str, size: int, colour: Colour) -> NDArray[np.uint8]:
    """A tile (h, w, 3) in BGR: text on the colour of its class."""
    font = font_for(text, size)
    margin = max(2, size // 4)
    ascent, descent = font.getmetrics()
    shape = round(font.getlength(text)) + 2 * margin, ascent + descent + margin // 2
    blue, green, red = colour
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140  # luma of ITU-R BT.601
    tile = Image.new("RGB", shape, colour)  # stays in BGR: Pillow does not care what the channels mean
    ink = (20, 20, 20) if bright else (255, 255, 255)
    ImageDraw.Draw(tile).text((margin, margin // 4), text, fill=ink, font=font)
    return np.asarray(tile)


def _paste(canvas: NDArray[np.uint8], tile: NDArray[np.uint8], corner: tuple[int, int], line: int) -> None:
    """Put a label above the corner of its box, or inside the box where the image ends, cut to the image."""
    h, w = canvas.shape[:2]
    tile_h, tile_w = tile.shape[:2]
    left = max(0, min(corner[0], w - tile_w))
    top = corner[1] - tile_h
    if top < 0:
        top = min(max(0, corner[1] + line), max(0, h - tile_h))
    room = canvas[top : top + tile_h, left : left + tile_w]
    room[:] = tile[: room.shape[0], : room.shape[1]]
