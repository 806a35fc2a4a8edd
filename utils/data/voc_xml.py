"""Annotations of Pascal VOC: one XML an image."""

import math
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from utils.data.labels import Labels
from utils.errors import UserError

Row = tuple[int, float, float, float, float]


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses document types, and with them the entities that could fill the memory or read other files."""

    def doctype(self, *_: object) -> typing.NoReturn:
        raise UserError("found a DOCTYPE, expected plain Pascal VOC XML; remove it")


@dataclass(frozen=True)
class Annotation:
    """What one XML says.

    Attributes:
        size: (h, w) of the image in pixels.
        rows: class, cx, cy, w, h of each object; fractions of the image.
        warnings: Objects that were left out: "file: what".
    """

    size: tuple[float, float]
    rows: list[Row]
    warnings: list[str]


def parse_annotation(file: Path, classes: Sequence[str]) -> Annotation:
    """Read the objects of one Pascal VOC annotation, without those marked difficult or (with a warning) without area.

    Pixels of Pascal VOC count from 1. As everywhere in the YOLO world only the centre is shifted by that one,
    cx = ((xmin + xmax) / 2 - 1) / width and w = (xmax - xmin) / width, and likewise for y; a box that then reaches out
    of the image (tools that count from 0) is cut at its border.

    Args:
        file: The XML.
        classes: Class names by index.

    Raises:
        UserError: If the file is no such annotation, names another class, or has a box outside of the image.
    """
    tree = _read_xml(file)
    size = [_number(file, tree, f"size/{side}") for side in ("width", "height")]
    if min(size) <= 0:
        raise UserError(f"{file}: found an image size of {size[0]:g} x {size[1]:g}, expected pixels; correct <size>")
    rows: list[Row] = []
    warnings: list[str] = []
    for item in _kept_objects(tree):
        name = _class_name(file, item)
        if name not in classes:
            raise UserError(f"{file}: found the class {name!r}, expected one of {', '.join(classes)}; add or rename it")
        left, top, right, bottom = (_number(file, item, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax"))
        if left == right or top == bottom:
            where = f"x {left:g}..{right:g}, y {top:g}..{bottom:g}"
            warnings.append(f"{file}: left out a {name} without area ({where})")
            continue
        (cx, w), (cy, h) = _span(left, right, size[0]), _span(top, bottom, size[1])
        if w <= 0 or h <= 0:
            found = f"found a {name} at x {left:g}..{right:g}, y {top:g}..{bottom:g}"
            raise UserError(f"{file}: {found}, expected a box inside the {size[0]:g} x {size[1]:g} image; correct it")
        rows.append((classes.index(name), cx, cy, w, h))
    return Annotation((size[1], size[0]), rows, warnings)


def read_voc_labels(file: Path, classes: Sequence[str]) -> Labels:
    """The objects of one Pascal VOC annotation as `parse_annotation` reads them, each once.

    Raises:
        UserError: As `parse_annotation`.
    """
    annotation = parse_annotation(file, classes)
    rows = list(dict.fromkeys(annotation.rows))
    repeated = [f"{file}: duplicate left out"] * (len(annotation.rows) - len(rows))
    boxes = np.array(rows, np.float32).reshape(-1, 5)
    return Labels(boxes, [None] * len(rows), annotation.warnings + repeated, size=annotation.size)


def find_classes(files: Iterable[Path]) -> list[str]:
    """Names of all classes of some annotations, sorted, but for objects marked difficult.

    Raises:
        UserError: If a file is no annotation, or there is no object at all.
    """
    found = {_class_name(file, item) for file in files for item in _kept_objects(_read_xml(file))}
    if not found:
        raise UserError("found no object in any annotation, expected at least one that is not difficult")
    return sorted(found)


def _read_xml(file: Path) -> ElementTree.Element:
    parser = ElementTree.XMLParser(target=_NoDoctype())  # noqa: S314 - without document types there are no entities
    try:
        return ElementTree.fromstring(file.read_bytes(), parser)  # noqa: S314
    except FileNotFoundError as error:
        raise UserError(
            f"{file}: no such annotation, expected one for every image; restore it or leave the image out"
        ) from error
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
