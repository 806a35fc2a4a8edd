"""Pascal VOC data sets as YOLO data sets: `python -m utils.data.voc ROOT OUT`."""

import argparse
import logging
import math
import shutil
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from tqdm import tqdm

from utils.cli import run_command
from utils.data.folder import new_folder
from utils.data.scan import IMAGE_SUFFIXES
from utils.errors import UserError
from utils.files import write_yaml

logger = logging.getLogger(__name__)

Row = tuple[int, float, float, float, float]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{self.prog}: {message}; see --help")


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses document types, and with them the entities that could fill the memory or read other files."""

    def doctype(self, *_: object) -> typing.NoReturn:
        raise UserError("found a DOCTYPE, expected plain Pascal VOC XML; remove it")


def parse_annotation(file: Path, classes: Sequence[str]) -> list[Row]:
    """Read the objects of one Pascal VOC annotation, without those marked difficult or (with a warning) without area.

    Pixels of Pascal VOC count from 1. As everywhere in the YOLO world only the centre is shifted by that one,
    cx = ((xmin + xmax) / 2 - 1) / width and w = (xmax - xmin) / width, and likewise for y; a box that then reaches out
    of the image (tools that count from 0) is cut at its border.

    Args:
        file: The XML.
        classes: Class names by index.

    Returns:
        One class, cx, cy, w, h for each object; fractions of the image.

    Raises:
        UserError: If the file is no such annotation, names another class, or has a box outside of the image.
    """
    tree = _read_xml(file)
    size = [_number(file, tree, f"size/{side}") for side in ("width", "height")]
    if min(size) <= 0:
        raise UserError(f"{file}: found an image size of {size[0]:g} x {size[1]:g}, expected pixels; correct <size>")
    rows: list[Row] = []
    for item in _kept_objects(tree):
        name = _class_name(file, item)
        if name not in classes:
            raise UserError(f"{file}: found the class {name!r}, expected one of {', '.join(classes)}; add or rename it")
        left, top, right, bottom = (_number(file, item, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax"))
        if left == right or top == bottom:
            logger.warning("%s: left out a %s without area (x %g..%g, y %g..%g)", file, name, left, right, top, bottom)
            continue
        (cx, w), (cy, h) = _span(left, right, size[0]), _span(top, bottom, size[1])
        if w <= 0 or h <= 0:
            found = f"found a {name} at x {left:g}..{right:g}, y {top:g}..{bottom:g}"
            raise UserError(f"{file}: {found}, expected a box inside the {size[0]:g} x {size[1]:g} image; correct it")
        rows.append((classes.index(name), cx, cy, w, h))
    return rows


def convert_voc(
    root: Path, out: Path, splits: Sequence[str] = ("train", "val", "test"), classes: Sequence[str] | None = None
) -> Path:
    """Write a Pascal VOC data set as a new YOLO data set: images/<split>/, labels/<split>/ and data.yaml.

    Images are copied. The VOC folder is only read; the new one appears when all is done.

    Args:
        root: Folder with JPEGImages, Annotations and ImageSets/Main/<split>.txt.
        out: Folder to make.
        splits: Names of the lists in ImageSets/Main; those that do not exist are left out with a note in the log.
        classes: Class names by index; by default all that occur, sorted.

    Returns:
        The data set YAML.

    Raises:
        UserError: If `out` exists, no list is there, or an image or annotation is missing or bad.
    """
    lists = {split: root / "ImageSets" / "Main" / f"{split}.txt" for split in splits}
    ids = {split: _read_ids(file) for split, file in lists.items() if file.is_file()}
    if not ids:
        raise UserError(
            f"{root}: found none of {', '.join(str(file.relative_to(root)) for file in lists.values())}, "
            "expected a Pascal VOC folder with JPEGImages, Annotations and ImageSets"
        )
    for split in lists.keys() - ids.keys():
        logger.info("%s: no such list, there will be no %s split", lists[split], split)
    annotations = {name: root / "Annotations" / f"{name}.xml" for names in ids.values() for name in names}
    if classes is None:
        classes = _find_classes(annotations.values())
    images = _find_images(root / "JPEGImages", annotations)

    with new_folder(out) as folder, tqdm(total=sum(map(len, ids.values())), desc="converting", unit="img") as bar:
        for split, names in ids.items():
            for kind in ("images", "labels"):
                (folder / kind / split).mkdir(parents=True)
            for name in names:
                rows = "".join(" ".join(map(str, row)) + "\n" for row in parse_annotation(annotations[name], classes))
                (folder / "labels" / split / f"{name}.txt").write_text(rows, encoding="utf-8")
                shutil.copyfile(images[name], folder / "images" / split / images[name].name)
                bar.update()
        content = {"path": str(out.absolute()), **{split: f"images/{split}" for split in ids}}
        write_yaml(folder / "data.yaml", {**content, "names": dict(enumerate(classes))})
    return out / "data.yaml"


def _read_ids(file: Path) -> list[str]:
    """First word of every line, each once: lists of one class have a second column."""
    lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))


def _find_classes(annotations: typing.Iterable[Path]) -> list[str]:
    found = {_class_name(file, item) for file in annotations for item in _kept_objects(_read_xml(file))}
    if not found:
        raise UserError("found no object in any annotation, expected at least one that is not difficult")
    return sorted(found)


def _find_images(folder: Path, names: typing.Iterable[str]) -> Mapping[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected the images of a Pascal VOC data set there")
    found = {file.stem: file for file in sorted(folder.iterdir()) if file.suffix.lower() in IMAGE_SUFFIXES}
    for name in names:
        if name not in found:
            raise UserError(f"{folder / name}.jpg: no such image, but a list names it; restore it or correct the list")
    return found


def _read_xml(file: Path) -> ElementTree.Element:
    parser = ElementTree.XMLParser(target=_NoDoctype())  # noqa: S314 - without document types there are no entities
    try:
        return ElementTree.fromstring(file.read_bytes(), parser)  # noqa: S314
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such annotation, but a list names it; restore it or correct the list") from error
    except ElementTree.ParseError as error:
        raise UserError(f"{file}:{error.position[0]}: not valid XML ({error}); correct that line") from error
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _kept_objects(tree: ElementTree.Element) -> list[ElementTree.Element]:
    return [item for item in tree.findall("object") if (item.findtext("difficult") or "0").strip() != "1"]


def _class_name(file: Path, item: ElementTree.Element) -> str:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{file}: found an object without a name, expected <name>; add it")
    return name


def _number(file: Path, item: ElementTree.Element, tag: str) -> float:
    text = item.findtext(tag)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{file}: found {text!r} in <{tag}>, expected a number of pixels; correct it")
    return value


def _span(start: float, end: float, length: float) -> tuple[float, float]:
    """Centre and extent along one axis as fractions, cut at the border of the image."""
    centre, extent = ((start + end) / 2 - 1) / length, (end - start) / length
    low, high = centre - extent / 2, centre + extent / 2
    if low >= 0 and high <= 1:
        return centre, extent
    low, high = max(low, 0), min(high, 1)
    return (low + high) / 2, high - low


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = _Parser(prog="python -m utils.data.voc", description="Pascal VOC -> YOLO data set")
    parser.add_argument("root", type=Path, help="folder with JPEGImages, Annotations and ImageSets")
    parser.add_argument("out", type=Path, help="folder to make")
    arguments = parser.parse_args(argv)
    file = convert_voc(arguments.root, arguments.out)
    logger.info("done: train with --data %s", file)


if __name__ == "__main__":
    sys.exit(run_command(main))
