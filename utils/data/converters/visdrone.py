"""VisDrone 2019 DET: a row of numbers for each object (https://github.com/VisDrone/VisDrone2018-DET-toolkit)."""

from pathlib import Path

from utils.data.converters.image_files import upright_shape
from utils.data.converters.label_files import LabelledImage, PixelBox, write_label_files
from utils.data.converters.number_rows import read_number, split_row
from utils.data.labels import BadRow, LabelProblem
from utils.data.listing import is_image, read_lines
from utils.errors import UserError

_SPLITS = ("VisDrone2019-DET-train", "VisDrone2019-DET-val", "VisDrone2019-DET-test-dev")
_COLUMNS = ("left", "top", "width", "height", "score", "category", "truncation", "occlusion")
_IGNORED_REGION, _OTHERS = 0, 11  # categories; 1..10 are the classes


def arrange(folder: Path) -> None:
    """Write <split>/labels from <split>/annotations and <split>/images, for those of the three splits that are there.

    Objects of score 0, ignored regions and the category `others` are left out, whatever else their row says.

    Args:
        folder: Holds VisDrone2019-DET-train, VisDrone2019-DET-val or VisDrone2019-DET-test-dev as unpacked.

    Raises:
        UserError: If there is no split, an image is without annotation or the other way round, or a row is bad.
    """
    splits = [folder / split for split in _SPLITS if (folder / split).is_dir()]
    if not splits:
        raise UserError(
            f"{folder}: found none of {', '.join(_SPLITS)}, expected the unpacked archives; unpack them there"
        )
    for split in splits:
        pairs = _pair_files(split)
        labelled = (LabelledImage(image, upright_shape(image), _read_boxes(file)) for image, file in pairs)
        write_label_files(split / "labels", labelled, len(pairs))


def _pair_files(split: Path) -> list[tuple[Path, Path]]:
    """Each image and its annotation, sorted."""
    for part in (split / "images", split / "annotations"):
        if not part.is_dir():
            raise UserError(f"{part}: no such folder, expected images and annotations there; unpack the archive again")
    images = {file.stem: file for file in (split / "images").iterdir() if is_image(file.name) and file.name[0] != "."}
    annotations = {file.stem: file for file in (split / "annotations").glob("[!.]*.txt")}
    for stem in sorted(images.keys() ^ annotations.keys()):
        there = annotations.get(stem) or images[stem]
        missing = "annotation" if stem in images else "image"
        raise UserError(f"{there}: found no {missing} for it, expected one; restore it, or remove this file")
    if not images:
        raise UserError(f"{split / 'images'}: found no images; unpack the archive again")
    return [(images[stem], annotations[stem]) for stem in sorted(images)]


def _read_boxes(file: Path) -> list[PixelBox]:
    boxes: list[PixelBox] = []
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        try:
            left, top, width, height, score, category = _parse_row(line)
        except BadRow as bad:
            raise UserError(str(LabelProblem(file, number, *bad.args))) from bad
        if score and category not in (_IGNORED_REGION, _OTHERS):
            boxes.append((int(category) - 1, left, top, left + width, top + height))
    return boxes


def _parse_row(line: str) -> list[float]:
    """The first six columns."""
    values = [read_number(token) for token in split_row(line, _COLUMNS)]
    *_, width, height, _, category, _, _ = values
    if min(width, height) < 0:
        raise BadRow(f"an object of {width:g} x {height:g} pixels", "no negative size", "correct the row")
    if category not in range(_IGNORED_REGION, _OTHERS + 1):
        raise BadRow(f"category {category:g}", f"one of {_IGNORED_REGION}..{_OTHERS}", "correct the row")
    return values[:6]
