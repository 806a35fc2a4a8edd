"""Pictures of whole batches: up to 16 images on a square grid with their boxes."""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from utils.boxes import cxcywh_to_xyxy
from utils.nms import Detections
from utils.show.draw import draw_detections
from utils.show.fonts import font_for, one_line
from utils.show.pictures import write_image

MAX_IMAGES = 16
MAX_SIDE = 1920
MAX_TITLE = 40
_GAP = 4

Picture = NDArray[np.uint8]


def save_targets_mosaic(
    file: Path, images: Tensor, targets: Tensor, names: dict[int, str], titles: Sequence[str]
) -> None:
    """Write the images of a batch with their labels.

    Args:
        file: .jpg
        images: uint8 (B, 3, H, W) RGB; not modified.
        targets: (T, 6) image index, class, cx, cy, w, h as fractions of the image.
        names: Class index -> name.
        titles: B captions, usually file names.
    """
    targets = targets.cpu()
    h, w = images.shape[-2:]
    boxes = cxcywh_to_xyxy(targets[:, 2:6].float() * torch.tensor((w, h, w, h)))
    detections = []
    for index in range(min(len(images), MAX_IMAGES)):
        mine = targets[:, 0] == index
        detections.append(Detections(boxes[mine], torch.ones(int(mine.sum())), targets[mine, 1].long()))
    write_image(file, _mosaic(images, detections, names, titles, hide_conf=True))


def save_detections_mosaic(
    file: Path, images: Tensor, detections: Sequence[Detections], names: dict[int, str], titles: Sequence[str]
) -> None:
    """Write the images of a batch with the objects found in them and their confidence.

    Args:
        file: .jpg
        images: uint8 (B, 3, H, W) RGB; not modified.
        detections: B detections, boxes in pixels of `images`.
        names: Class index -> name.
        titles: B captions, usually file names.
    """
    write_image(file, _mosaic(images, detections, names, titles, hide_conf=False))


def _mosaic(
    images: Tensor,
    detections: Sequence[Detections],
    names: dict[int, str],
    titles: Sequence[str],
    *,
    hide_conf: bool,
) -> Picture:
    """BGR canvas, filled column by column; boxes are drawn after scaling so that lines and text stay sharp."""
    count = min(len(images), MAX_IMAGES)
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    h, w = images.shape[-2:]
    scale = min(1.0, (MAX_SIDE / columns - _GAP) / w, (MAX_SIDE / rows - _GAP) / h)
    tile_h, tile_w = max(round(h * scale), 1), max(round(w * scale), 1)
    canvas = np.full((rows * (tile_h + _GAP), columns * (tile_w + _GAP), 3), 255, dtype=np.uint8)
    for index in range(count):
        bgr = images[index].flip(0).permute(1, 2, 0).contiguous().cpu().numpy()
        tile: Picture = cv2.resize(bgr, (tile_w, tile_h), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        found = detections[index]
        scaled = Detections(found.xyxy.cpu() * scale, found.conf.cpu(), found.cls.cpu())
        thickness = max(round((tile_h + tile_w) / 500), 1)
        tile = draw_detections(tile, scaled, names, line_thickness=thickness, hide_labels=False, hide_conf=hide_conf)
        column, row = divmod(index, rows)
        top, left = row * (tile_h + _GAP), column * (tile_w + _GAP)
        canvas[top : top + tile_h, left : left + tile_w] = _captioned(tile, titles[index])
    return canvas


def _captioned(tile: Picture, title: str) -> Picture:
    """The tile with a caption in its lower left corner, where it rarely hides a box's own label."""
    title = one_line(title)
    text = title if len(title) <= MAX_TITLE else f"{title[: MAX_TITLE - 3]}..."
    font = font_for(text, 14)
    ascent, descent = font.getmetrics()
    top = max(tile.shape[0] - ascent - descent - 4, 0)
    right = min(round(font.getlength(text)) + 8, tile.shape[1])
    strip = Image.fromarray((tile[top:, :right] * 0.25).astype(np.uint8))
    ImageDraw.Draw(strip).text((4, 2), text, fill=(255, 255, 255), font=font)
    tile[top:, :right] = np.asarray(strip)
    return tile
