"""Get a data set of data/*.yaml, or arrange one from the disk: `python -m utils.data.prepare NAME [--from FOLDER]`."""

import argparse
import contextlib
import errno
import logging
import os
import shutil
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import filelock

from utils.cli import run_command
from utils.data.config import DatasetConfig, Split, load_dataset_config
from utils.data.fetch import fetch
from utils.data.listing import list_images
from utils.data.mirror import find_files, mirror
from utils.data.recipes import RECIPES, Archive, Recipe
from utils.data.space import require_space, show_size
from utils.data.unpack import DamagedArchive, unpack
from utils.errors import UserError
from utils.files import write_yaml

logger = logging.getLogger(__name__)

_SPLITS: tuple[Split, ...] = typing.get_args(Split)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{self.prog}: {message}; see --help")


def prepare(
    name: str,
    *,
    source: Path | None = None,
    out: Path | None = None,
    splits: Sequence[Split] = (),
    keep: bool = False,
) -> Path:
    """Make a data set of data/<name>.yaml, all or nothing: download, unpack, convert, check, and one rename at the end.

    Archives wait in `<out>.archives` until all is done, so that the next call goes on where this one was interrupted.

    Args:
        name: One of `RECIPES`.
        source: Folder of the official data set on disk. Its files are linked into the new folder, or copied to another
            disk, and never changed; nothing is downloaded.
        out: Folder to make; by default the `path` of data/<name>.yaml.
        splits: The splits wanted, all of which have to be complete; by default all of data/<name>.yaml or, with
            `source`, what is there of them.
        keep: Leave the archives where they are.

    Returns:
        The data set YAML, which names only what is there: data/<name>.yaml if all is at its `path`, else a new one in
        the data set.

    Raises:
        UserError: If `out` exists, something is missing, the disk is too small, or a download, an archive or the data
            are bad.
    """
    recipe = _find_recipe(name)
    config = load_dataset_config(f"{name}.yaml")
    wanted = _checked_splits(config, splits)
    out = config.root if out is None else Path(os.path.abspath(out))  # noqa: PTH100 - through symbolic links
    if source and out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"--out {out}: lies in --from {source}, which is never changed; choose another folder")
    if not source and not recipe.archives:
        raise UserError(
            f"{name} has to be downloaded by hand, from {recipe.page}; unpack it into one folder, and give that with "
            "--from FOLDER"
        )
    archives = [] if source else [archive for archive in recipe.archives if set(archive.splits) & set(wanted)]
    downloads = out.with_name(f"{out.name}.archives")
    with _work_folder(out) as folder, _full_disk_told(out):
        if source:
            logger.info("%s: from %s to %s", name, source, out)
            mirror(_choose_files(recipe, source, wanted, all_needed=bool(splits)), folder)
        else:
            _announce(name, archives, downloads, out)
            _download_and_unpack(archives, downloads, folder)
        with _told_without(folder, str(source or name)):
            recipe.arrange(folder)
            there = _find_sources(folder, config)
            _check_splits(there, config, wanted, all_needed=bool(splits) or not source)
        yaml = _write_yaml(folder, config, there, out)
        os.sync()  # so that not even a power failure leaves empty files in their places
        folder.rename(out)
    if not keep:
        _remove(archives, downloads)
    return yaml


def _find_recipe(name: str) -> Recipe:
    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(RECIPES)}"
        raise UserError(f"{name}: no data set of that name; {hint}")
    return RECIPES[name]


def _checked_splits(config: DatasetConfig, splits: Sequence[Split]) -> tuple[Split, ...]:
    there = tuple(split for split in _SPLITS if getattr(config, split))
    for split in splits:
        if split not in there:
            raise UserError(f"--splits {split}: {config.file} has only {', '.join(there)}; choose among these")
    return tuple(splits) or there


@contextlib.contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, for one process at a time; what a killed one has left there is removed."""
    work = out.with_name(f".{out.name}.preparing")
    first = not out.parent.exists()
    work.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(work / "lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise UserError(f"{out}: another process is making it ({work} is locked); wait for its end") from error
    folder = work / out.name
    try:
        if os.path.lexists(out):  # also a symbolic link to nothing
            raise UserError(f"{out}: exists already and is never changed; remove it, or choose another one with --out")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        shutil.rmtree(work, ignore_errors=True)
        if first:
            with contextlib.suppress(OSError):  # something is in it
                out.parent.rmdir()


@contextlib.contextmanager
def _full_disk_told(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{out}: the disk is full; free some space and run the same command again (what was downloaded is kept), "
            "or choose a folder on another disk with --out"
        ) from error


@contextlib.contextmanager
def _told_without(folder: Path, name: str) -> Iterator[None]:
    """Leave out the temporary folder in what the log says, and put `name` in its place in errors."""

    def shorten(record: logging.LogRecord) -> bool:
        record.msg, record.args = record.getMessage().replace(f"{folder}{os.sep}", ""), ()
        return True

    handlers = logging.getLogger().handlers.copy()
    for handler in handlers:
        handler.addFilter(shorten)
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(str(folder), name)) from error
    finally:
        for handler in handlers:
            handler.removeFilter(shorten)


def _choose_files(recipe: Recipe, source: Path, splits: Sequence[Split], *, all_needed: bool) -> Mapping[Path, Path]:
    """The files of an official folder that some splits need, see `find_files`."""
    files = find_files(source)
    if all_needed and (missing := recipe.find_missing(files, splits)):
        raise UserError(
            f"{source}: found no {', no '.join(missing)}, expected all official files of {', '.join(splits)}; complete "
            "them, choose other splits with --splits, or leave it out to get what is there"
        )
    return {relative: file for relative, file in files.items() if recipe.is_needed(relative, splits)}


def _announce(name: str, archives: Sequence[Archive], downloads: Path, out: Path) -> None:
    """Say what will come, if there is room for it."""
    whole = sum(archive.size for archive in archives)
    missing = sum(max(archive.size - _size_there(_place(archive, downloads)), 0) for archive in archives)
    require_space(out, int(missing + whole), f"{name}: its archives, unpacked beside each other,")
    logger.info("%s: downloading about %s to %s, making %s", name, show_size(missing), downloads, out)


def _size_there(file: Path) -> int:
    parts = (file, file.with_name(f"{file.name}.part"))
    return next((part.stat().st_size for part in parts if part.exists()), 0)


def _place(archive: Archive, downloads: Path) -> Path:
    return downloads / archive.into / archive.name


def _download_and_unpack(archives: Sequence[Archive], downloads: Path, folder: Path) -> None:
    for archive in archives:
        fetch(archive.url, _place(archive, downloads), checksum=archive.checksum)
    for archive in archives:
        file = _place(archive, downloads)
        try:
            unpack(file, folder / archive.into)
        except DamagedArchive as error:
            file.unlink()
            raise UserError(f"{error}; it was deleted, run the same command again to get it anew") from error


def _find_sources(folder: Path, config: DatasetConfig) -> dict[Split, list[str]]:
    """The folders and lists that the data set YAML has for each split, relative to it; those that have images."""

    def has_images(source: str) -> bool:
        return (folder / source).exists() and bool(list_images(folder / source))

    return {split: [source for source in _named_sources(config, split) if has_images(source)] for split in _SPLITS}


def _named_sources(config: DatasetConfig, split: Split) -> list[str]:
    return [source.relative_to(config.root).as_posix() for source in getattr(config, split)]


def _check_splits(
    there: Mapping[Split, list[str]], config: DatasetConfig, splits: Sequence[Split], *, all_needed: bool
) -> None:
    """Some splits are whole or, unless all is needed, some of them is there; what is missing is in the log."""
    gaps = []
    for split in splits:
        if missing := [source for source in _named_sources(config, split) if source not in there[split]]:
            gaps.append(f"{split}: found no images for {', '.join(missing)}")
    if gaps and (all_needed or not any(there[split] for split in splits)):
        raise UserError(
            f"{config.file}: {'; '.join(gaps)}; complete the official files, or choose other splits with --splits"
        )
    for gap in gaps:
        logger.warning("%s", gap)


def _write_yaml(folder: Path, config: DatasetConfig, there: Mapping[Split, list[str]], out: Path) -> Path:
    """The data set YAML that fits: the one of data/ or, for another place or less than it names, a new one in `out`."""
    if out == config.root and all(there[split] == _named_sources(config, split) for split in _SPLITS):
        return config.file
    content: dict[str, Any] = {"path": str(out)}
    content |= {split: names[0] if len(names) == 1 else names for split, names in there.items() if names}
    write_yaml(folder / config.file.name, {**content, "names": config.names})
    return out / config.file.name


def _remove(archives: Sequence[Archive], downloads: Path) -> None:
    """Remove what was downloaded, and the folders of it that are empty then."""
    for archive in archives:
        file = _place(archive, downloads)
        file.unlink(missing_ok=True)
        for parent in (file.parent, *file.parent.parents):
            if not parent.is_relative_to(downloads) or any(parent.iterdir()):
                break
            parent.rmdir()


def show_recipes() -> str:
    """A table of the data sets that are known."""
    rows = ["name              on disk  from"]
    for name, recipe in RECIPES.items():
        how = recipe.page if recipe.archives else f"{recipe.page} (by hand, then --from FOLDER)"
        rows.append(f"{name:<16}{show_size(recipe.size):>9}  {how}")
    return "\n".join(rows)


def _describe_use(file: Path) -> str:
    config = load_dataset_config(str(file))
    missing = [split for split in ("train", "val") if not getattr(config, split)]
    if not missing:
        return f"train with --data {file}"
    split = next(split for split in ("val", "test", "train") if getattr(config, split))
    return (
        f"it can be evaluated only: it has no {' and no '.join(missing)} split, so train.py will not work with it; "
        f"evaluate with val.py --data {file} --task {split}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = _Parser(prog="python -m utils.data.prepare", description="Get or arrange a data set of data/*.yaml")
    parser.add_argument("name", nargs="?", help=f"one of {', '.join(RECIPES)}")
    parser.add_argument("--list", action="store_true", help="show the data sets and their sizes")
    parser.add_argument("--from", dest="source", type=Path, metavar="FOLDER", help="official data set that is on disk")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder to make (default: `path` of data/NAME.yaml)")
    parser.add_argument("--splits", nargs="+", choices=_SPLITS, default=(), help="get these, complete (default: all)")
    parser.add_argument("--keep", action="store_true", help="keep the downloaded archives, in OUT.archives")
    arguments = parser.parse_args(argv)
    if arguments.list:
        logger.info("%s", show_recipes())
        return
    if not arguments.name:
        parser.error("expected the name of a data set, or --list")
    file = prepare(
        arguments.name.removesuffix(".yaml"),
        source=arguments.source,
        out=arguments.out,
        splits=arguments.splits,
        keep=arguments.keep,
    )
    logger.info("done: %s", _describe_use(file))


if __name__ == "__main__":
    sys.exit(run_command(main))
