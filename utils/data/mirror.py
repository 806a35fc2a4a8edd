"""A second tree of the files of a folder, which takes no space where the file system can do that."""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from utils.data.space import require_space
from utils.errors import UserError

logger = logging.getLogger(__name__)


def mirror(source: Path, target: Path) -> None:
    """Link every file below a folder into another one; copy what cannot be linked, as to another disk.

    Symbolic links are followed. `source` is only read; as the files may be the same ones afterwards, those in `target`
    can be moved and removed, but must not be written to.

    Args:
        source: An existing folder.
        target: A folder; made if it is not there.

    Raises:
        UserError: If `source` is no folder, or there is no room for copies.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    files = sorted(_walk(source.resolve()))
    copying = False
    for number, (file, relative) in enumerate(files):
        place = target / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, place)
        except OSError:
            if not copying:
                needed = sum(rest.stat().st_size for rest, _ in files[number:])
                require_space(target, needed, f"a copy of {source} (its files cannot be linked to there)")
                logger.info("%s: cannot be linked to %s, copying it", source, target)
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
