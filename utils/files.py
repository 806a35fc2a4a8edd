"""Paths and files: finding what the user named, never overwriting a run, writing all or nothing."""

import codecs
import contextlib
import csv
import errno
import io
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from utils.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PROGRAM_ROOT = Path(__file__).resolve().parents[1]
"""The directory of train.py: relative defaults and data set roots start here."""


def next_free_path(path: Path, *, exist_ok: bool = False) -> Path:
    """`path` itself if nothing is there (or `exist_ok`), else the first free of path2, path3, ...

    Args:
        path: A run directory such as runs/train/exp.
        exist_ok: Use the path even if it exists.
    """
    if exist_ok or not path.exists():
        return path
    return next(p for n in range(2, 10**9) if not (p := path.with_name(f"{path.name}{n}")).exists())


def check_project(project: str) -> None:
    """Refuse a --project that cannot be written, before a run takes the time to load anything; nothing is created.

    Raises:
        UserError: If the folder, or the nearest one above that exists, is a file or cannot be written.
    """
    folder = Path(project).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"--project {project}: {existing} is a file, expected a folder; choose another --project")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        found = f"cannot write in {existing} ({error.strerror})"
        raise UserError(f"--project {project}: {found}; choose another --project") from error


def make_run_directory(project: str, name: str, *, exist_ok: bool = False) -> Path:
    """Create the directory of a new run, `project/name`, or with the first free number behind the name.

    Raises:
        UserError: If it cannot be created.
    """
    root = Path(project)
    base = root if root.is_absolute() or project.startswith(".") else Path.cwd() / root
    directory = next_free_path(base / name, exist_ok=exist_ok)
    try:
        directory.mkdir(parents=True, exist_ok=exist_ok)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise UserError(
            f"{directory}: cannot write there ({error.strerror}); choose another --project or --name"
        ) from error
    return directory


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`, and move it there only when all was written.

    A reader sees the old content or the new one, never a part; an error leaves the old file as it was.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".tmp")  # names end at 255
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL:  # told without a name
            error.filename = str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_csv(file: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a table atomically: floats to six digits, nothing for None and NaN; what is no text is escaped.

    Args:
        file: .csv.
        rows: The first is the header.
    """
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    write_text(file, stream.getvalue().encode("utf-8", "backslashreplace").decode())


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    """Write a mapping of plain values as YAML, in its own order, atomically."""
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


class _StrictLoader(yaml.SafeLoader):
    """Plain values only, and every key once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; only plain values, no code.

    Raises:
        UserError: If the file is missing, is not YAML (with the line), or is not a mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8", errors="replace"), _StrictLoader)  # noqa: S506 (safe)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a directory, expected a YAML file") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{path}{line}: not valid YAML ({problem}); correct that line") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: a value in it cannot be read ({error}); correct it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping of keys to values, found {type(content).__name__}")
    return content


def is_utf_16(content: bytes) -> bool:
    """Whether a text file was saved as UTF-16, as PowerShell does, or is no text at all."""
    return b"\0" in content or content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def find_file(name: str, folders: Iterable[str], *, suffixes: tuple[str, ...] = (".yaml", ".yml")) -> Path:
    """Find the file a flag names: a path as given, else a bare name in the program's own folders.

    Args:
        name: What the user wrote, for example `coco128.yaml` or `data/coco128.yaml`.
        folders: Folders of the program that are searched for a bare name, for example ("data",).
        suffixes: What the file may end in.

    Raises:
        UserError: If the suffix is wrong or nothing is found; names near misses.
    """
    path = Path(name)
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{name}: expected a file ending in {' or '.join(suffixes)}")
    for candidate in (path, PROGRAM_ROOT / path):
        if candidate.is_file():
            return candidate
    known = {p.name: p for f in folders for s in suffixes for p in sorted((PROGRAM_ROOT / f).glob(f"*{s}"))}
    if path.name == name and name in known:
        return known[name]
    stems = {Path(file).stem.lower(): file for file in known}
    near = [stems[stem] for stem in get_close_matches(path.stem.lower(), stems, n=3)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known here: {', '.join(sorted(known)) or 'none'}"
    raise UserError(f"{name}: no such file; {hint}")


def disambiguate(name: str, taken: Callable[[str], bool]) -> str:
    """`name`, or the first of name-2, name-3, ... that is not taken; a suffix stays at the end."""
    if not taken(name):
        return name
    path = Path(name)
    return next(new for n in range(2, 10**9) if not taken(new := f"{path.stem}-{n}{path.suffix}"))
