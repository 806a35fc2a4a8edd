"""A second tree of the files of a folder, which takes no space where the file system can do that."""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from utils.data.space import require_space
from utils.errors import UserError

logger = logging.getLogger(__name__)


def find_files(folder: Path) -> dict[Path, Path]:
    """Path below the folder -> the file there, with symbolic links followed; sorted.

    Raises:
        UserError: If it is no folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    return dict(sorted((relative, file) for file, relative in _walk(folder.resolve())))


def mirror(files: Mapping[Path, Path], target: Path) -> None:
    """Link files into a folder; copy what cannot be linked, as to another disk.

    The files are only read; as they may be the same ones afterwards, those in `target` can be moved and removed, but
    must not be written to.

    Args:
        files: Path below `target` -> an existing file.
        target: A folder; made if it is not there.

    Raises:
        UserError: If there is no room for copies.
    """
    copying = False
    for number, (relative, file) in enumerate(files.items()):
        place = target / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, place)
        except OSError:
            if not copying:
                needed = sum(rest.stat().st_size for rest in islice(files.values(), number, None))
                require_space(target, needed, f"a copy of {file} and others (they cannot be linked to there)")
                logger.info("%s and others: cannot be linked to %s, copying them", file, target)
                copying = True
            shutil.copyfile(file, place)


def _walk(folder: Path, relative: Path = Path(), above: frozenset[Path] = frozenset()) -> Iterator[tuple[Path, Path]]:
    """Each file with symbolic links resolved, and its path below the folder; no link leads to one `above`."""
    for entry in os.scandir(folder):
        path = Path(entry.path).resolve() if entry.is_symlink() else Path(entry.path)
        if entry.is_file():
            yield path, relative / entry.name
        elif entry.is_dir() and path not in above | {folder}:
            yield from _walk(path, relative / entry.name, above | {folder})
