"""Data set YAML: where the pictures are and what the classes are called."""

import logging
import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from utils.data.annotated import AnnotatedImages, Source
from utils.data.coco_json import read_category_names
from utils.errors import UserError
from utils.files import PROGRAM_ROOT, find_file, read_yaml

logger = logging.getLogger(__name__)

Split = Literal["train", "val", "test"]
_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_LINE_BREAKERS = frozenset({"Cc", "Zl", "Zp"})  # Unicode categories: control characters, line and paragraph ends
_KEYS = ("path", *_SPLITS, "names", "nc", "download", "builtin")
_SOURCE_KEYS = ("images", "annotations", "list")

_Entry = dict[str, str]  # one source as the YAML has it; with only `images` where it is a plain path


@dataclass(frozen=True)
class DatasetConfig:
    """One data set, as its YAML describes it; the sources need not exist before `sources` asks for them.

    Attributes:
        file: The YAML.
        root: Folder below which relative sources are found.
        train: Folders of images, text files that list images, or images with annotations; absolute. Empty if the YAML
            has none.
        val: Same.
        test: Same.
        names: Class index 0..nc-1 to name.
        download: Where the YAML says the data set can be had; only ever shown to the user.
    """

    file: Path
    root: Path
    train: tuple[Source, ...]
    val: tuple[Source, ...]
    test: tuple[Source, ...]
    names: dict[int, str]
    download: str | None = None

    @property
    def nc(self) -> int:
        """Number of classes."""
        return len(self.names)

    def sources(self, split: Split) -> tuple[Source, ...]:
        """Image sources of one split, all of which exist.

        Raises:
            UserError: If the YAML has no such split or a source is not on disk.
        """
        sources: tuple[Source, ...] = getattr(self, split)
        if not sources:
            raise UserError(f"{self.file}: found no `{split}`, expected a folder or list of images; add `{split}: ...`")
        for path in (path for source in sources for path in _paths(source)):
            if not path.exists():
                remedy = f"correct `path` or `{split}`"
                if command := self._preparation():
                    remedy += f", or get the data set with `{command}`"
                elif self.download and self.download.startswith("http") and len(self.download.split()) == 1:
                    remedy += f", or get the data set (nothing is downloaded here) from {self.download}"
                elif self.download:
                    remedy += ", or get the data set as the `download` script there says (it is never run here)"
                raise UserError(f"{self.file}: {split}: {path} does not exist; {remedy}")
        return sources

    def _preparation(self) -> str | None:
        """The command that makes this data set, if it is one that is known here."""
        from utils.data.recipes import RECIPES

        name = self.file.stem
        if name not in RECIPES:
            return None
        shipped = self.file.resolve() == (PROGRAM_ROOT / "data" / self.file.name).resolve()
        source = "" if RECIPES[name].archives else " --from FOLDER"
        return f"python -m utils.data.prepare {name}{source}" + ("" if shipped else f" --out {quote(str(self.root))}")


def find_dataset_file(name: str) -> Path:
    """The data set YAML that --data names: a path, or the bare name of one below data/.

    Raises:
        UserError: If there is none.
    """
    return find_file(name, ("data",))


def load_dataset_config(name: str) -> DatasetConfig:
    """Read a data set YAML in YOLOv5's format, and make the built-in data set on its first use.

    A relative `path` starts at the program's root or, if none of the sources is there, at the YAML's own folder; an
    absolute one is taken as is. A source is a path, or a mapping of `images`, `annotations` (a COCO JSON or a folder of
    Pascal VOC XML) and perhaps `list`; `names` may be left to a COCO JSON. A path that starts with `../` and does not
    exist is tried without it. `download` is shown to the user when files are missing, never fetched and never executed.
    `builtin: shapes` (an addition of this program) names the data set of `utils.data.shapes`.

    Args:
        name: Path of a YAML, or the bare name of one below data/.

    Raises:
        UserError: If the YAML is missing or malformed; names the file, what was found and what was expected.
    """
    file = find_dataset_file(name)
    content = read_yaml(file)
    _check_keys(file, content)
    entries = {split: _read_sources(file, split, content.get(split)) for split in _SPLITS}
    everything = [entry for split in _SPLITS for entry in entries[split]]
    root = _find_root(file, content.get("path"), everything)
    if content.get("names") is None:
        content = {**content, "names": _names_of_json(root, everything)}
    names = _read_names(file, content)
    download = content.get("download")
    config = DatasetConfig(
        file=file,
        root=root,
        train=_make_sources(root, entries["train"], names),
        val=_make_sources(root, entries["val"], names),
        test=_make_sources(root, entries["test"], names),
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
    if raw is None:
        raise UserError(f"{file}: found no names; add a list of class names, or a mapping 0: name, 1: name")
    if not isinstance(raw, list | dict) or not raw:
        raise UserError(f"{file}: found names: {raw!r}, expected a list of class names or a mapping 0: name, 1: name")
    names = dict(enumerate(raw)) if isinstance(raw, list) else raw
    if any(type(key) is not int for key in names) or sorted(names) != list(range(len(names))):
        shown = ", ".join(map(repr, list(names)[:8]))
        quoted = all(type(key) is str and key.isdecimal() for key in names)
        remedy = "write them without quotes" if quoted else "renumber them"
        raise UserError(f"{file}: found the keys {shown} in names, expected exactly 0..{len(names) - 1}; {remedy}")
    for index, name in names.items():
        if not isinstance(name, str | int | float) or isinstance(name, bool):
            raise UserError(f"{file}: found {name!r} as the name of class {index}, expected text; put it in quotes")
        if any(unicodedata.category(character) in _LINE_BREAKERS for character in str(name)):
            raise UserError(f"{file}: found {name!r} as the name of class {index}, expected no control characters")
        if "\ufffd" in str(name):  # what `read_yaml` puts in place of bytes that it cannot read
            raise UserError(f"{file}: the name of class {index}, {name!r}, is not in UTF-8; save the file as UTF-8")
    nc = content.get("nc", len(names))
    if not isinstance(nc, int | float):
        raise UserError(f"{file}: found nc: {nc!r}, expected the number of classes; correct or remove nc")
    if nc != len(names):
        raise UserError(f"{file}: found nc: {nc} but {len(names)} names, expected them to agree; correct or remove nc")
    return {index: str(names[index]) for index in sorted(names)}


def _read_sources(file: Path, split: str, value: Any) -> tuple[_Entry, ...]:
    entries = [value] if isinstance(value, str | dict) else value or []
    if not isinstance(entries, list) or not all(isinstance(entry, str | dict) and entry for entry in entries):
        raise UserError(f"{file}: found {split}: {value!r}, expected a folder or list of images, or a list of those")
    return tuple(
        {"images": entry} if isinstance(entry, str) else _check_source(file, split, entry) for entry in entries
    )


def _check_source(file: Path, split: str, entry: dict[Any, Any]) -> _Entry:
    paths = all(isinstance(value, str) and value for value in entry.values())
    if not paths or not {"images", "annotations"} <= entry.keys() <= set(_SOURCE_KEYS):
        raise UserError(
            f"{file}: found {split}: {entry!r}, expected the paths `images` and `annotations` (a COCO JSON or a folder "
            "of Pascal VOC XML), with XML perhaps `list`; correct the keys"
        )
    return entry


def _find_root(file: Path, path: Any, entries: Iterable[_Entry]) -> Path:
    if path is not None and not isinstance(path, str):
        raise UserError(f"{file}: found path: {path!r}, expected a folder")
    bases = [_absolute(base / Path(path or "").expanduser()) for base in (PROGRAM_ROOT, file.parent)]
    there = (base for base in bases if any(_locate(base, entry["images"]).exists() for entry in entries))
    return next(there, bases[0])


def _names_of_json(root: Path, entries: Iterable[_Entry]) -> list[str] | None:
    """The categories of the first COCO JSON that is there."""
    files = (_locate(root, entry["annotations"]) for entry in entries if "annotations" in entry)
    return next((read_category_names(file) for file in files if file.is_file()), None)


def _make_sources(root: Path, entries: Iterable[_Entry], names: dict[int, str]) -> tuple[Source, ...]:
    sources: list[Source] = []
    for entry in entries:
        paths = {key: _locate(root, path) for key, path in entry.items()}
        annotated = "annotations" in paths
        sources.append(AnnotatedImages(**paths, names=tuple(names.values())) if annotated else paths["images"])
    return tuple(sources)


def _paths(source: Source) -> tuple[Path, ...]:
    return source.paths() if isinstance(source, AnnotatedImages) else (source,)


def _locate(root: Path, path: str) -> Path:
    located = _absolute(root / Path(path).expanduser())
    inside = _absolute(root / path.removeprefix("../"))
    return inside if not located.exists() and inside.exists() else located


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
