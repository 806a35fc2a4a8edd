"""COCO128: has YOLO labels already."""

from pathlib import Path

from utils.data.converters.image_files import move


def arrange(folder: Path) -> None:
    """Move the images and the labels out of the folder `coco128`, which the archive has around them.

    Args:
        folder: Holds coco128, as unpacked, or the images/ and labels/ in it.

    Raises:
        UserError: If they are there twice.
    """
    for part in ("images", "labels"):
        if (unpacked := folder / "coco128" / part).is_dir():
            move(unpacked, folder / part)
