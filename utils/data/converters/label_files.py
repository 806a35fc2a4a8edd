"""YOLO label files, made from boxes in pixels."""

import logging
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from utils.data.labels import label_path_of
from utils.errors import UserError

logger = logging.getLogger(__name__)

PixelBox = tuple[int, float, float, float, float]
"""Class, left, top, right, bottom."""


class LabelledImage(NamedTuple):
    """The objects of one image.

    Attributes:
        path: The image, in a folder called images.
        shape: (h, w) in pixels.
        boxes: Its objects, in pixels of that shape; they may reach over the border.
    """

    path: Path
    shape: tuple[int, int]
    boxes: Sequence[PixelBox]


def write_label_files(folder: Path, images: Iterable[LabelledImage], total: int | None = None) -> None:
    """Make a folder of label files anew, one for every image, where `label_path_of` looks for them.

    Boxes are cut at the border of the image; those without an area there are left out, and of equal rows of an image
    all but the first; how many of each is said in the log.

    Args:
        folder: Folder of all the labels; an earlier one is replaced.
        images: The images, each once.
        total: Their number, for the bar.

    Raises:
        UserError: If two images have the same label file.
    """
    if folder.exists():
        shutil.rmtree(folder)  # a file that is linked from elsewhere stays there
    folder.mkdir(parents=True)
    left_out = repeated = 0
    for image in tqdm(images, desc=f"labels of {folder.parent.name}", unit="img", total=total):
        rows = [row for box in image.boxes if (row := format_row(box, image.shape))]
        left_out += len(image.boxes) - len(rows)
        repeated += len(rows) - len(set(rows))
        file = label_path_of(image.path)
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with file.open("x", encoding="utf-8", newline="\n") as stream:
                stream.writelines(f"{row}\n" for row in dict.fromkeys(rows))
        except FileExistsError as error:
            raise UserError(
                f"{image.path}: found another image that has the same label file {file}, expected names that differ in "
                "more than the suffix; rename or remove one of the two"
            ) from error
    if left_out:
        logger.info("%s: left out %d boxes without an area inside of their image", folder, left_out)
    if repeated:
        logger.info("%s: left out %d boxes that repeat another of their image", folder, repeated)


def format_row(box: PixelBox, shape: tuple[int, int]) -> str | None:
    """`class cx cy w h` of a box cut at the border, as fractions with six decimals; None if no area is left.

    Args:
        box: Class and corners in pixels.
        shape: (h, w) of the image in pixels.
    """
    index, *corners = box
    height, width = shape
    left, right = (min(max(x, 0), width) for x in corners[::2])
    top, bottom = (min(max(y, 0), height) for y in corners[1::2])
    w, h = (f"{extent:.6f}" for extent in ((right - left) / width, (bottom - top) / height))
    if min(float(w), float(h)) <= 0:
        return None
    return f"{index} {(left + right) / 2 / width:.6f} {(top + bottom) / 2 / height:.6f} {w} {h}"
