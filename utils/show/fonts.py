"""Fonts for text in pictures: one that has the characters needed, without a download."""

import functools
import logging
import unicodedata
from pathlib import Path

from PIL import ImageFont

logger = logging.getLogger(__name__)


def one_line(text: str) -> str:
    """`text` with a space for every control character and line end, which no font can draw."""
    return "".join(" " if unicodedata.category(c) in {"Cc", "Zl", "Zp"} else c for c in text)


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that can write `text`: DejaVu Sans, which comes with matplotlib, else the first of the system that can.

    Args:
        text: What will be written.
        size: Height of the font in pixels.
    """
    return _open(_file_with("".join(sorted({c for c in text if not c.isspace()}))), size)


@functools.lru_cache(maxsize=64)
def _open(file: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(file), size)


@functools.lru_cache(maxsize=1024)
def _file_with(characters: str) -> Path:
    import matplotlib

    default = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    if _has(default, characters):
        return default
    from matplotlib import font_manager

    for entry in font_manager.fontManager.ttflist:
        # The Last Resort font draws a symbol of the script for every character, even for letters we could write.
        if not entry.name.startswith("Last Resort") and _has(Path(entry.fname), characters):
            return Path(entry.fname)
    logger.warning("no font on this machine has all of %r: an empty box stands for a missing character", characters)
    return default


@functools.lru_cache(maxsize=512)
def _known_characters(file: Path) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(file)).get_charmap())


def _has(file: Path, characters: str) -> bool:
    return file.is_file() and {ord(c) for c in characters} <= _known_characters(file)
