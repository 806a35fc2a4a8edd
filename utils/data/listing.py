"""Which images a folder or a list has."""

import gzip
import logging
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from utils.errors import UserError
from utils.files import is_utf_16

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp", ".pfm"})
SHOWN_SUFFIXES = " ".join(sorted(suffix.lstrip(".") for suffix in IMAGE_SUFFIXES))
_COMPANION_SUFFIXES = frozenset({".txt", ".xml", ".json", ".cache"})  # labels, and what YOLOv5 keeps beside them
_LIST_SUFFIXES = (".txt", ".txt.gz")


def list_images(source: Path) -> set[str]:
    """Absolute paths of the images in a folder, searched recursively, or in a list: a .txt or .txt.gz, one a line.

    A relative path in a list starts at the list's folder or, if there is nothing (and it does not begin with ./), at
    the current one.

    Raises:
        UserError: If the source is missing or is neither, or a line of the list names no image.
    """
    if source.is_dir():
        return _find_in_folder(source)
    if source.name.lower().endswith(_LIST_SUFFIXES) and source.is_file():
        return _read_list(source)
    if source.exists():
        raise UserError(f"{source}: expected a folder of images or a .txt or .txt.gz file that lists images")
    raise UserError(f"{source}: no such folder or list of images; correct the data set YAML")


def is_image(file: str) -> bool:
    """Whether the suffix is that of an image."""
    return _suffix(file) in IMAGE_SUFFIXES


def read_lines(file: Path) -> list[str]:
    """The lines of a text file, which may be compressed (.gz) and have a byte order mark and any line ends.

    Raises:
        UserError: If it cannot be read, or is UTF-16 as PowerShell writes it.
    """
    try:
        content = file.read_bytes()
        if file.suffix.lower() == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: cannot be read ({error}), expected a list, one name a line; make it again") from error
    if is_utf_16(content):
        raise UserError(f"{file}: found UTF-16 or a damaged file, expected a list, one name a line; save it as UTF-8")
    return content.decode("utf-8-sig", errors="surrogateescape").splitlines()


def read_names(file: Path) -> list[str]:
    """First word of every line, each once: lists of Pascal VOC for one class have a second column."""
    return list(dict.fromkeys(line.split()[0] for line in read_lines(file) if line.strip()))


def _find_in_folder(folder: Path) -> set[str]:
    """All images below a folder; says what else is there, unless it is hidden or goes with images, as labels do."""
    found: set[str] = set()
    others: Counter[str] = Counter()
    for file in _walk(os.path.abspath(folder)):  # noqa: PTH100
        suffix = _suffix(file)
        if suffix in IMAGE_SUFFIXES:
            found.add(file)
        elif suffix not in _COMPANION_SUFFIXES and not os.path.basename(file).startswith("."):  # noqa: PTH119
            others[suffix or "none"] += 1
    if others:
        logger.info("%s: %d files of other types left out (%s)", folder, others.total(), ", ".join(sorted(others)))
    return found


def _suffix(file: str) -> str:
    return os.path.splitext(file)[1].lower()  # noqa: PTH122 - for a data set of millions of files


def _walk(folder: str, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """All files below a folder, also through symbolic links, unless they lead back to a folder `above`."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(entry.path, above | {real})
            else:
                yield entry.path


def _read_list(file: Path) -> set[str]:
    images: set[str] = set()
    problems: list[str] = []
    for number, line in enumerate(read_lines(file), start=1):
        entry = line.strip()
        if not entry:
            continue
        candidates = [file.parent / entry] if entry.startswith("./") else [file.parent / entry, Path(entry)]
        image = next((path for path in candidates if path.is_file()), None)
        if image is None:
            problems.append(f"{file}:{number}: found no image {candidates[0]}")
        elif not is_image(entry):
            problems.append(f"{file}:{number}: {image} is no image, files of those end in {SHOWN_SUFFIXES}")
        else:
            images.add(os.path.abspath(image))  # noqa: PTH100
    if problems:
        more = f" (and {len(problems) - 1} more lines like it)" if len(problems) > 1 else ""
        raise UserError(
            f"{problems[0]}{more}; expected the path of an image, absolute or relative to the list; correct the list"
        )
    return images
