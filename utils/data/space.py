"""Whether there is room on a disk."""

import shutil
from pathlib import Path

from utils.errors import UserError


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Make sure that something fits before it is written.

    Args:
        folder: Where to; it need not exist yet.
        needed: Bytes.
        purpose: What they are for, in a few words.

    Raises:
        UserError: If the disk has less.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"{folder}: {purpose} needs {show_size(needed)}, but only {show_size(free)} are free there; free some disk "
            "space, or choose a folder on another disk with --out"
        )


def show_size(count: float) -> str:
    """A number of bytes for people, to three digits: 815 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.{0 if unit == 'B' or count >= 99.95 else 1}f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
