"""Which images each split of a data set has; what is missing is told, not raised."""

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from utils.data.annotated import AnnotatedImages, Source
from utils.data.config import DatasetConfig, Split
from utils.data.labels import LabelOrigin, label_path_of, read_labels
from utils.data.lint.findings import Finding, finding_of
from utils.data.listing import SHOWN_SUFFIXES, is_image, list_images, read_lines
from utils.errors import UserError

SPLITS: tuple[Split, ...] = ("train", "val", "test")

Origins = dict[str, LabelOrigin]
"""Absolute path of each image -> where its objects are, sorted."""


def find_splits(config: DatasetConfig) -> tuple[dict[Split, Origins], list[Finding]]:
    """The images of every split that the YAML has."""
    splits: dict[Split, Origins] = {}
    findings: list[Finding] = []
    for split in SPLITS:
        sources: tuple[Source, ...] = getattr(config, split)
        if not sources and split != "test":
            expected = f"`{split}: ...`, a folder or list of images"
            findings.append(
                Finding(config.file, None, f"no {split}", expected, "add it before training", "missing split")
            )
        origins: Origins = {}
        for source in sources:
            origins |= _find(config, split, source, findings)
        if sources:
            splits[split] = dict(sorted(origins.items()))
    return splits, findings


def own_folders(config: DatasetConfig) -> list[Path]:
    """The folders of a data set: its root if something is found there, and those of images, labels and annotations."""
    folders: dict[Path, None] = {}
    for source in (source for split in SPLITS for source in getattr(config, split)):
        if isinstance(source, AnnotatedImages):
            home = source.annotations if source.annotations.is_dir() else source.annotations.parent
            found = [source.images, home]
        elif source.is_file():
            images: set[Path] = set()
            with suppress(UserError):  # `find_splits` tells it
                images = {Path(image).parent for image in _read_list(source, [])}
            found = [*images, *(label_path_of(folder / "x.jpg").parent for folder in images)]
        else:
            found = [source, label_path_of(source / "x.jpg").parent]
        if any(folder.is_relative_to(config.root) for folder in found):
            folders[config.root] = None
        folders |= dict.fromkeys(found)
    return list(folders)


def _find(config: DatasetConfig, split: Split, source: Source, findings: list[Finding]) -> Origins:
    paths = source.paths() if isinstance(source, AnnotatedImages) else (source,)
    missing = [path for path in paths if not path.exists()]
    for path in missing:
        told = (f"{split}: {path}, which does not exist", "what is on disk", _remedy(config, split), "missing source")
        findings.append(Finding(config.file, None, *told))
    if missing:
        return {}
    try:
        if isinstance(source, AnnotatedImages):
            return source.find()
        images = list_images(source) if source.is_dir() else _read_list(source, findings)
    except UserError as error:
        file = source.annotations if isinstance(source, AnnotatedImages) else source
        findings.append(finding_of(str(error), "bad source", file, "images with their annotations"))
        return {}
    if not images:
        expected = f"files ending in {SHOWN_SUFFIXES}"
        remedy = f"correct `{split}` in {config.file}"
        findings.append(Finding(source, None, "no images", expected, remedy, "bad source"))
    labels = {image: label_path_of(Path(image)) for image in images}
    return {image: LabelOrigin(str(file), partial(read_labels, file, config.nc)) for image, file in labels.items()}


def _remedy(config: DatasetConfig, split: Split) -> str:
    """How to get what is missing in a split, as training says it."""
    try:
        config.sources(split)
    except UserError as error:
        return str(error).rpartition("; ")[2]
    return f"correct `path` or `{split}`"


def _read_list(file: Path, findings: list[Finding]) -> set[str]:
    """The images of a list, as `list_images` finds them, but with all that is wrong in it."""
    if not file.name.lower().endswith((".txt", ".txt.gz")):
        list_images(file)  # says why not
    images: dict[str, int] = {}
    for number, line in enumerate(read_lines(file), start=1):
        entry = line.strip()
        if not entry:
            continue
        bases = [file.parent] if entry.startswith("./") else [file.parent, Path()]
        image = next((os.path.abspath(base / entry) for base in bases if (base / entry).is_file()), None)  # noqa: PTH100
        told: tuple[str, str, str, str] | None = None
        if image is None:
            told = (entry, "an image that is on disk", "restore it, or delete the line", "missing image")
        elif not is_image(entry):
            told = (entry, f"a file ending in {SHOWN_SUFFIXES}", "convert it, or delete the line", "no image")
        elif image in images:
            told = (f"the image of line {images[image]} again", "each once", "delete the line", "repeated in list")
        else:
            images[image] = number
        if told:
            findings.append(Finding(file, number, *told))
    return set(images)
