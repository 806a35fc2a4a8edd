"""SKU-110K, densely packed goods on shelves: a CSV for each split (https://github.com/eg4000/SKU110K_CVPR19)."""

from collections.abc import Iterator
from pathlib import Path

from utils.data.converters.image_files import check_shape, list_names, move
from utils.data.converters.label_files import LabelledImage, PixelBox, write_label_files
from utils.data.converters.number_rows import read_number, split_row
from utils.data.labels import BadRow, LabelProblem
from utils.data.listing import read_lines
from utils.errors import UserError
from utils.files import write_text

_SPLITS = ("train", "val", "test")
_COLUMNS = ("image", "x1", "y1", "x2", "y2", "class", "image_width", "image_height")


def arrange(folder: Path) -> None:
    """Write labels/ and the lists <split>.txt from annotations/annotations_<split>.csv, for the splits that are there.

    Args:
        folder: Holds SKU110K_fixed as unpacked, or the images/ and annotations/ in it.

    Raises:
        UserError: If images or annotations are missing, or a row is bad.
    """
    for part in ("images", "annotations"):
        if (unpacked := folder / "SKU110K_fixed" / part).is_dir():
            move(unpacked, folder / part)
    for split in _SPLITS:
        (folder / f"{split}.txt").unlink(missing_ok=True)
    tables = {split: folder / "annotations" / f"annotations_{split}.csv" for split in _SPLITS}
    tables = {split: file for split, file in tables.items() if file.is_file()}
    if not tables:
        raise UserError(f"{folder}: found no annotations/annotations_train.csv; unpack SKU110K_fixed.tar.gz there")
    present = list_names(folder / "images")
    write_label_files(folder / "labels", (x for item in tables.items() for x in _convert(folder, *item, present)))


def _convert(folder: Path, split: str, table: Path, present: set[str]) -> Iterator[LabelledImage]:
    images = _read_images(table, present)
    write_text(folder / f"{split}.txt", "".join(f"./images/{name}\n" for name in images))
    for name, (shape, boxes) in images.items():
        check_shape(table, shape, folder / "images" / name)
        yield LabelledImage(folder / "images" / name, shape, boxes)


def _read_images(table: Path, present: set[str]) -> dict[str, tuple[tuple[int, int], list[PixelBox]]]:
    """Name of each image of one CSV -> its size and boxes, sorted."""
    images: dict[str, tuple[tuple[int, int], list[PixelBox]]] = {}
    for number, line in enumerate(read_lines(table), start=1):
        if not line.strip():
            continue
        try:
            name, box, shape = _parse_row(line)
            if name not in present:
                raise BadRow(f"the image {name}", "one of those in images", "unpack the images again")
            known, boxes = images.setdefault(name, (shape, []))
            if known != shape:
                found = f"{name} of {shape[1]} x {shape[0]} pixels"
                raise BadRow(found, f"{known[1]} x {known[0]} as in the rows before", "correct the row")
        except BadRow as bad:
            raise UserError(str(LabelProblem(table, number, *bad.args))) from bad
        boxes.append(box)
    return dict(sorted(images.items()))


def _parse_row(line: str) -> tuple[str, PixelBox, tuple[int, int]]:
    """Name, box and (h, w) of the image."""
    name, *corners, _, width_text, height_text = split_row(line, _COLUMNS)
    left, top, right, bottom = map(read_number, corners)
    width, height = read_number(width_text), read_number(height_text)
    if not (width >= 1 and height >= 1):
        raise BadRow(f"an image of {width:g} x {height:g} pixels", "at least 1 x 1", "correct the row")
    return name, (0, left, top, right, bottom), (int(height), int(width))
