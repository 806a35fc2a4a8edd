"""What is wrong with the single rows of labels, and in which line each box is."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from utils.data.labels import LabelOrigin, LabelProblem, Labels
from utils.data.lint.findings import Finding, finding_of
from utils.errors import UserError

_PROBLEMS = {  # how `expected` of a LabelProblem begins -> its kind
    "5 (class": "columns",
    "a number": "no number",
    "the number of a class": "no number",
    "a finite": "not finite",
    "a whole number": "class out of range",
    "the id of a category": "class out of range",
    "fractions of": "coordinate outside",
    "a box inside": "coordinate outside",
    "a width and height": "no size",
    "a text file": "unreadable labels",
}
_MENDED = {  # what a warning of Labels says -> kind, what was expected, remedy
    "duplicate": ("duplicate row", "each object once", "delete the row"),
    "clipped": ("clipped coordinate", "coordinates in [0, 1]", "cut the object at the border of the image"),
    "cut at the border": ("box over the border", "a box inside the image", "cut it at the border of the image"),
    "area": ("no area", "a width and height above 0", "correct or delete it"),
}


@dataclass(frozen=True)
class Rows:
    """The objects of one image.

    Attributes:
        labels: Those that can be used.
        lines: Line of each of them, or nothing where the annotations are not lines.
        findings: The others, and those that had to be mended.
    """

    labels: Labels
    lines: list[int]
    findings: list[Finding]


def read_rows(origin: LabelOrigin, image: Path) -> Rows:
    """Read the labels of an image, and tell what each row that is not as it should be suffers from."""
    file = Path(origin.file)
    try:
        labels = origin.read()
    except UserError as error:
        expected = "an annotation that can be read"
        return Rows(Labels(), [], [finding_of(str(error), "unreadable labels", file, expected, images=(image,))])
    problems = [_problem(problem, image) for problem in labels.problems]
    mended = [_mended(warning, file, image) for warning in labels.warnings]
    left_out = {problem.line for problem in problems}
    left_out |= {finding.line for finding in mended if finding.kind == "duplicate row"}
    has_lines = file.suffix == ".txt" and len(labels.boxes)
    lines = [number for number in _filled_lines(file) if number not in left_out] if has_lines else []
    return Rows(labels, lines, problems + mended)


def _problem(problem: LabelProblem, image: Path) -> Finding:
    kind = next((kind for begin, kind in _PROBLEMS.items() if problem.expected.startswith(begin)), "bad annotation")
    count, _, word = problem.found.partition(" ")
    if kind == "columns" and word.startswith("column") and int(count) > 6:
        kind = "odd polygon"
    if problem.found.startswith("class ") and not float(problem.found.removeprefix("class ")).is_integer():
        kind = "fractional class"
    return Finding(**vars(problem), kind=kind, images=(image,))


def _mended(warning: str, file: Path, image: Path) -> Finding:
    kind, expected, remedy = next(told for phrase, told in _MENDED.items() if phrase in warning)
    return finding_of(f"{warning}; {remedy}", kind, file, expected, images=(image,))


def _filled_lines(file: Path) -> Iterator[int]:
    """Numbers of the lines that are not blank, which `read_labels` leaves out."""
    try:
        text = file.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError:
        return
    yield from (number for number, line in enumerate(text.splitlines(), start=1) if line.split())
