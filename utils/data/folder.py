"""Make a folder of many files all or nothing."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from utils.errors import UserError


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path` to fill, and move it there only when all was written.

    An error leaves nothing behind. If another process has made `path` meanwhile, theirs stays.

    Raises:
        UserError: If `path` exists already.
    """
    if path.exists() or path.is_symlink():
        raise UserError(f"{path}: exists already and is never overwritten; remove it or choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        if not path.exists():
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
