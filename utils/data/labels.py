"""YOLO label files: one object a line, as a box or as a polygon."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.files import is_utf_16

Array = NDArray[np.float32]

TOLERANCE = 1e-3
"""How far outside [0, 1] a coordinate may lie through rounding; it is clipped, and a warning is counted."""


@dataclass(frozen=True)
class LabelProblem:
    """What is wrong with one image or one row of a label file.

    Attributes:
        file: The file.
        line: Line number from 1; None if the file as a whole is meant.
        found: What is there.
        expected: What should be there.
        remedy: What to do.
    """

    file: Path
    line: int | None
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: found {self.found}, expected {self.expected}; {self.remedy}"


@dataclass(eq=False)
class Labels:
    """The objects of one image.

    Attributes:
        boxes: (n, 5) class, cx, cy, w, h; coordinates as fractions of the image.
        polygons: n entries, row by row with `boxes`: (k, 2) x, y as fractions of the image, or None for a box row.
        warnings: Rows that were mended: "file:line: what".
        problems: Rows that were not understood; they are not among the boxes.
        size: (h, w) in pixels of the image they were made for, where the file says it.
    """

    boxes: Array = field(default_factory=lambda: np.zeros((0, 5), np.float32))
    polygons: list[Array | None] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[LabelProblem] = field(default_factory=list)
    size: tuple[float, float] | None = None


@dataclass(frozen=True)
class LabelOrigin:
    """Where the objects of one image are.

    Attributes:
        file: The file that holds them; it need not exist.
        read: Reads them; may raise `UserError`.
    """

    file: str
    read: Callable[[], Labels]


class BadRow(Exception):
    """found, expected, remedy."""


def label_path_of(image: Path) -> Path:
    """Where the labels of an image are: the last folder called images becomes labels, the suffix becomes .txt.

    An image that is in no such folder has its labels beside it.
    """
    label = image.with_suffix(".txt")
    parts = list(label.parts)
    for i in reversed(range(len(parts) - 1)):
        if parts[i] == "images":
            parts[i] = "labels"
            return Path(*parts)
    return label


def read_labels(path: Path, nc: int) -> Labels:
    """Read a label file; each row says for itself whether it is a box or a polygon.

    Box: `class cx cy w h`. Polygon: `class x1 y1 x2 y2 x3 y3 ...`, at least three points; its box is their extent. All
    are fractions of the image in [0, 1]. Blank lines are ignored, exact duplicates dropped with a warning, the order
    is kept. A missing or empty file is a background image.

    Args:
        path: The text file; it may have a byte order mark, tabs and any line ends.
        nc: Number of classes.

    Returns:
        The objects; rows that cannot be understood are in its `problems`.
    """
    labels = Labels()
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        if path.is_symlink():
            found = f"a link to {path.readlink()}, which is not there"
            remedy = "mount the disk it is on, or remove the link"
            labels.problems.append(LabelProblem(path, None, found, "a text file", remedy))
        return labels
    except OSError as error:
        found = f"an unreadable label file ({error.strerror})"
        labels.problems.append(LabelProblem(path, None, found, "a text file", "check the path and its permissions"))
        return labels
    if is_utf_16(content):
        found = "UTF-16 or a damaged file"
        labels.problems.append(LabelProblem(path, None, found, "a text file in UTF-8", "save it as UTF-8"))
        return labels
    text = content.decode("utf-8-sig", errors="replace")
    boxes: list[list[float]] = []
    seen: set[tuple[float, ...]] = set()
    for number, line in enumerate(text.splitlines(), start=1):
        tokens = line.split()
        if not tokens:
            continue
        try:
            row = _parse_row(tokens, nc)
            coordinates = np.clip(np.array(row[1:], np.float32), 0, 1)
            box, polygon = _box_of(coordinates)
        except BadRow as bad:
            labels.problems.append(LabelProblem(path, number, *bad.args))
            continue
        if row in seen:
            labels.warnings.append(f"{path}:{number}: duplicate row dropped")
            continue
        seen.add(row)
        if min(row[1:]) < 0 or max(row[1:]) > 1:
            labels.warnings.append(f"{path}:{number}: coordinates clipped to [0, 1]")
        boxes.append([row[0], *box.tolist()])
        labels.polygons.append(polygon)
    if boxes:
        labels.boxes = np.array(boxes, np.float32)
    return labels


def _parse_row(tokens: list[str], nc: int) -> tuple[float, ...]:
    """Class and coordinates of one row, checked but not yet clipped."""
    count = len(tokens)
    if count != 5 and (count < 7 or count % 2 == 0):
        remedy = "remove the confidence column" if count == 6 else "separate the values by spaces and complete the row"
        raise BadRow(
            f"{count} column{'s' * (count != 1)}",
            "5 (class cx cy w h) or 7, 9, ... (class and at least 3 points)",
            remedy,
        )
    if tokens[0][0].isalpha():
        remedy = "write its place in `names` of the data set, from 0"
        raise BadRow(f"{tokens[0]!r}", "the number of a class", remedy)
    row = tuple(_number(token) for token in tokens)
    if row[0] != int(row[0]) or not 0 <= row[0] < nc:
        expected = f"a whole number in 0..{nc - 1}"
        raise BadRow(f"class {tokens[0]}", expected, "correct the class, or the names in the data set YAML")
    for token, value in zip(tokens[1:], row[1:], strict=True):
        if not -TOLERANCE <= value <= 1 + TOLERANCE:
            raise BadRow(
                f"the coordinate {token}",
                "fractions of the image width and height in [0, 1]",
                "divide pixels by the image size" if value > 1 else "cut the object at the image border",
            )
    return row


def _box_of(coordinates: Array) -> tuple[Array, Array | None]:
    """(cx, cy, w, h) of a box row, or of the extent of a polygon, and the polygon (k, 2) if it is one."""
    if len(coordinates) == 4:
        box, polygon = coordinates, None
    else:
        polygon = coordinates.reshape(-1, 2)
        low, high = polygon.min(axis=0), polygon.max(axis=0)
        box = np.concatenate([(low + high) / 2, high - low])
    if min(box[2:]) <= 0:
        raise BadRow(f"an object of size {box[2]:g} x {box[3]:g}", "a width and height above 0", "delete the row")
    return box, polygon


def _number(token: str) -> float:
    try:
        value = float(token.replace("_", "?"))  # float() would read 1_0 as ten
    except ValueError as error:
        raise BadRow(f"{token!r}", "a number", "separate the values by spaces and use a decimal point") from error
    if not math.isfinite(value):
        raise BadRow(f"{token!r}", "a finite number", "correct or delete the row")
    return value
