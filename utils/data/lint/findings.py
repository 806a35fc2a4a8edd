"""What can be wrong with a data set, and how bad each of it is."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from utils.data.labels import LabelProblem

Level = Literal["error", "warning", "info"]
LEVELS: tuple[Level, ...] = ("error", "warning", "info")

_KINDS: dict[Level, tuple[str, ...]] = {
    # training refuses it, or is wrong without a word
    "error": (
        "missing source",
        "bad source",
        "missing image",
        "no image",
        "empty image file",
        "cut-off image",
        "broken image",
        "small image",
        "no labels",
        "shared label file",
        "bad annotation",
        "size of another image",
        "unreadable labels",
        "columns",
        "odd polygon",
        "no number",
        "not finite",
        "class out of range",
        "fractional class",
        "coordinate outside",
        "no size",
        "leaked image",
    ),
    # training takes it as it is; somebody should look
    "warning": (
        "missing split",
        "shared source",
        "repeated in list",
        "unused file",
        "orphan labels",
        "duplicate image",
        "contradicting labels",
        "lookalike image",
        "duplicate row",
        "clipped coordinate",
        "box over the border",
        "no area",
        "overlapping boxes",
        "two classes in one box",
        "tiny box",
        "giant box",
        "extreme shape",
        "class name",
        "class without objects",
    ),
    # usual
    "info": ("no label file", "empty label file"),
}
LEVEL_OF: dict[str, Level] = {kind: level for level, kinds in _KINDS.items() for kind in kinds}
"""Every kind of finding, the worst first."""

_MESSAGE = re.compile(r"(?:found )?(?P<found>.*?)(?:, expected (?P<expected>.*?))?(?:; (?P<remedy>[^;]*))?", re.DOTALL)


@dataclass(frozen=True)
class Finding(LabelProblem):
    """One thing that is wrong, or at least worth knowing.

    Attributes:
        kind: A key of `LEVEL_OF`.
        images: Images that show it; the boxes are those of the first.
        boxes: Which rows of the labels of that image are meant.
        weight: Pictures show what is heaviest in its kind.
    """

    kind: str
    images: tuple[Path, ...] = ()
    boxes: tuple[int, ...] = ()
    weight: float = 0.0

    @property
    def level(self) -> Level:
        """How bad it is."""
        return LEVEL_OF[self.kind]

    def shown_by(self, *images: Path) -> "Finding":
        """The same, with the images that show it."""
        return replace(self, images=images)


def finding_of(message: str, kind: str, file: Path, expected: str, **more: Any) -> Finding:
    """A finding of the message of a `UserError`: "FILE:LINE: found ..., expected ...; remedy".

    Args:
        message: May lack all but the text.
        kind: Of the finding.
        file: Meant by a message that names none first.
        expected: For a message that does not say it.
        more: Further fields of the finding.
    """
    line, text = None, message
    if message.startswith(f"{file}:"):
        number, colon, rest = message.removeprefix(f"{file}:").partition(":")
        line, text = (int(number), rest) if colon and number.isdecimal() else (None, f"{number}{colon}{rest}")
    parts = _MESSAGE.fullmatch(text.strip())
    told = {key: value for key, value in parts.groupdict().items() if value} if parts else {}
    found, remedy = told.get("found", text), told.get("remedy", "correct it")
    return Finding(file, line, found, told.get("expected", expected), remedy, kind, **more)
