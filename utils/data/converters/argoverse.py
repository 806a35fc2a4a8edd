"""Argoverse-HD: boxes on the front camera of Argoverse 1.1 (https://www.cs.cmu.edu/~mengtial/proj/streaming/)."""

from collections.abc import Iterator
from pathlib import Path

from utils.data.converters.coco_table import read_coco_table
from utils.data.converters.image_files import check_shape, list_names, move
from utils.data.converters.label_files import LabelledImage, write_label_files
from utils.errors import UserError

_SHAPE = (1200, 1920)  # of every image of the camera
_CLASSES = {index: index for index in range(8)}


def arrange(folder: Path) -> None:
    """Rename Argoverse-1.1/tracking to images, and write Argoverse-1.1/labels from Argoverse-HD/annotations.

    The train and the val split are converted, those of them that have images; the test split has no public boxes.

    Args:
        folder: Holds Argoverse-1.1 and Argoverse-HD, as unpacked.

    Raises:
        UserError: If images or annotations are missing or bad.
    """
    base = folder / "Argoverse-1.1"
    if (base / "tracking").is_dir():
        move(base / "tracking", base / "images")
    splits = [split for split in ("train", "val") if (base / "images" / split).is_dir()]
    if not splits:
        raise UserError(f"{base}: found no tracking/train and no tracking/val, expected the images; unpack them there")
    annotations = {split: folder / "Argoverse-HD" / "annotations" / f"{split}.json" for split in splits}
    write_label_files(base / "labels", (x for file in annotations.values() for x in _convert(file, base / "images")))


def _convert(file: Path, images: Path) -> Iterator[LabelledImage]:
    table = read_coco_table(file, ("name", "sid"), ("seq_dirs",))
    folders = dict(enumerate(table.others["seq_dirs"]))
    present = list_names(images)
    for (name, sequence), boxes in table.by_image(_CLASSES):
        path = f"{folders.get(sequence)}/{name}"
        if path not in present:
            raise UserError(f"{file}: found no image {images / path}, expected all that it names; unpack them again")
        check_shape(file, _SHAPE, images / path)
        yield LabelledImage(images / path, _SHAPE, boxes)
