"""Data set YAML: where the pictures are and what the classes are called."""

import logging
import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from utils.errors import UserError
from utils.files import PROGRAM_ROOT, find_file, read_yaml

logger = logging.getLogger(__name__)

Split = Literal["train", "val", "test"]
_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_LINE_BREAKERS = frozenset({"Cc", "Zl", "Zp"})  # Unicode categories: control characters, line and paragraph ends
_KEYS = ("path", *_SPLITS, "names", "nc", "download", "builtin")


@dataclass(frozen=True)
class DatasetConfig:
    """One data set, as its YAML describes it; the sources need not exist before `sources` asks for them.

    Attributes:
        file: The YAML.
        root: Folder below which relative sources are found.
        train: Folders of images or text files that list images; absolute. Empty if the YAML has none.
        val: Same.
        test: Same.
        names: Class index 0..nc-1 to name.
        download: Where the YAML says the data set can be had; only ever shown to the user.
    """

    file: Path
    root: Path
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    test: tuple[Path, ...]
    names: dict[int, str]
    download: str | None = None

    @property
    def nc(self) -> int:
        """Number of classes."""
        return len(self.names)

    def sources(self, split: Split) -> tuple[Path, ...]:
        """Image sources of one split, all of which exist.

        Raises:
            UserError: If the YAML has no such split or a source is not on disk.
        """
        sources: tuple[Path, ...] = getattr(self, split)
        if not sources:
            raise UserError(f"{self.file}: found no `{split}`, expected a folder or list of images; add `{split}: ...`")
        for source in sources:
            if not source.exists():
                remedy = f"correct `path` or `{split}`"
                if self.download and self.download.startswith("http") and len(self.download.split()) == 1:
                    remedy += f", or get the data set (nothing is downloaded here) from {self.download}"
                elif self.download:
                    remedy += ", or get the data set as the `download` script there says (it is never run here)"
                raise UserError(f"{self.file}: {split}: {source} does not exist; {remedy}")
        return sources


def find_dataset_file(name: str) -> Path:
    """The data set YAML that --data names: a path, or the bare name of one below data/.

    Raises:
        UserError: If there is none.
    """
    return find_file(name, ("data",))


def load_dataset_config(name: str) -> DatasetConfig:
    """Read a data set YAML in YOLOv5's format, and make the built-in data set on its first use.

    A relative `path` starts at the program's root or, if none of the sources is there, at the YAML's own folder; an
    absolute one is taken as is. A single source that starts with `../` and does not exist is tried without it.
    `download` is shown to the user when files are missing, never fetched and never executed. `builtin: shapes` (an
    addition of this program) names the data set of `utils.data.shapes`.

    Args:
        name: Path of a YAML, or the bare name of one below data/.

    Raises:
        UserError: If the YAML is missing or malformed; names the file, what was found and what was expected.
    """
    file = find_dataset_file(name)
    content = read_yaml(file)
    _check_keys(file, content)
    names = _read_names(file, content)
    entries = {split: _read_sources(file, split, content.get(split)) for split in _SPLITS}
    root = _find_root(file, content.get("path"), [entry for split in _SPLITS for entry in entries[split]])
    download = content.get("download")
    config = DatasetConfig(
        file=file,
        root=root,
        train=_locate(root, entries["train"]),
        val=_locate(root, entries["val"]),
        test=_locate(root, entries["test"]),
        names=names,
        download=str(download).strip() if download else None,
    )
    if "builtin" in content:
        _make_builtin(config, content["builtin"])
    return config


def _check_keys(file: Path, content: dict[str, Any]) -> None:
    for key in (str(key) for key in content):
        near = get_close_matches(key, _KEYS, n=1, cutoff=0.66)
        if key not in _KEYS and near:
            raise UserError(f"{file}: found the key `{key}`, expected one of {', '.join(_KEYS)}; is it `{near[0]}`?")


def _read_names(file: Path, content: dict[str, Any]) -> dict[int, str]:
    raw = content.get("names")
    if not isinstance(raw, list | dict) or not raw:
        raise UserError(f"{file}: found names: {raw!r}, expected a list of class names or a mapping 0: name, 1: name")
    names = dict(enumerate(raw)) if isinstance(raw, list) else raw
    if any(type(key) is not int for key in names) or sorted(names) != list(range(len(names))):
        shown = ", ".join(map(repr, list(names)[:8]))
        raise UserError(f"{file}: found the keys {shown} in names, expected exactly 0..{len(names) - 1}; renumber them")
    for index, name in names.items():
        if not isinstance(name, str | int | float) or isinstance(name, bool):
            raise UserError(f"{file}: found {name!r} as the name of class {index}, expected text; put it in quotes")
        if any(unicodedata.category(character) in _LINE_BREAKERS for character in str(name)):
            raise UserError(f"{file}: found {name!r} as the name of class {index}, expected no control characters")
    nc = content.get("nc", len(names))
    if not isinstance(nc, int | float):
        raise UserError(f"{file}: found nc: {nc!r}, expected the number of classes; correct or remove nc")
    if nc != len(names):
        raise UserError(f"{file}: found nc: {nc} but {len(names)} names, expected them to agree; correct or remove nc")
    return {index: str(names[index]) for index in sorted(names)}


def _read_sources(file: Path, split: str, value: Any) -> tuple[str, ...]:
    entries = [value] if isinstance(value, str) else value or []
    if not isinstance(entries, list) or not all(isinstance(entry, str) and entry for entry in entries):
        raise UserError(f"{file}: found {split}: {value!r}, expected a folder or list of images, or a list of those")
    return tuple(entries)


def _find_root(file: Path, path: Any, entries: Iterable[str]) -> Path:
    if path is not None and not isinstance(path, str):
        raise UserError(f"{file}: found path: {path!r}, expected a folder")
    bases = [_absolute(base / Path(path or "").expanduser()) for base in (PROGRAM_ROOT, file.parent)]
    return next((base for base in bases if any(source.exists() for source in _locate(base, entries))), bases[0])


def _locate(root: Path, entries: Iterable[str]) -> tuple[Path, ...]:
    sources = []
    for entry in entries:
        source = _absolute(root / Path(entry).expanduser())
        inside = _absolute(root / entry.removeprefix("../"))
        sources.append(inside if not source.exists() and inside.exists() else source)
    return tuple(sources)


def _absolute(path: Path) -> Path:
    """Absolute and without `..`, but through symbolic links: label paths follow from the folder names as written."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _make_builtin(config: DatasetConfig, builtin: Any) -> None:
    if builtin != "shapes":
        raise UserError(f"{config.file}: found builtin: {builtin!r}, expected shapes, the only built-in data set")
    if not config.root.exists():
        from utils.data.shapes import make_shapes

        logger.info("making the built-in data set in %s", config.root)
        make_shapes(config.root)
