"""Label files and images that do not find each other."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from utils.data.annotated import AnnotatedImages
from utils.data.labels import label_path_of
from utils.data.lint.findings import Finding
from utils.data.lint.survey import Item, Survey
from utils.data.listing import IMAGE_SUFFIXES

_PICTURES = frozenset(
    {".arw", ".avif", ".cr2", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".nef", ".pgm", ".ppm", ".psd", ".tga"}
)
_NO_LABELS = frozenset({"classes.txt", "notes.txt"})  # what labelling programs write beside labels


def check_folders(survey: Survey) -> list[Finding]:
    """Labels that belong to two images, to none, or are not where they should be; files that nobody reads."""
    return [*_shared_labels(survey), *_missing_labels(survey), *_unused_files(survey), *_orphans(survey)]


def shared_labels(items: Iterable[Item]) -> list[tuple[Item, Item]]:
    """Each item whose label file belongs to another image before it, and that one."""
    owners: dict[Path, Item] = {}
    pairs = [(item, owners.setdefault(item.origin, item)) for item in items if item.origin.suffix == ".txt"]
    return [(item, owner) for item, owner in pairs if item is not owner]


def _shared_labels(survey: Survey) -> Iterator[Finding]:
    for item, owner in shared_labels(survey.items()):
        found = f"{item.origin.name} as the labels of {owner.image.name} too"
        told = (found, "one image for each label file", "rename or remove one of the images", "shared label file")
        yield Finding(item.image, None, *told, images=(item.image, owner.image))


def _missing_labels(survey: Survey) -> Iterator[Finding]:
    """A split without a single label file; its images are then no backgrounds."""
    for split, items in survey.splits.items():
        missing = [item for item in items if any(finding.kind == "no label file" for finding in item.findings)]
        if split == "test" or not items or len(missing) < len(items):
            continue
        for item in items:
            item.findings = [finding for finding in item.findings if finding.kind != "no label file"]
        example = items[0].origin
        found = f"no label file for any of the {len(items)} images of {split}"
        elsewhere = _search(survey.config.root, example.name)
        remedy = f"there is {elsewhere}; move such files" if elsewhere else "put the label files there"
        yield Finding(survey.config.file, None, found, f"{example} for {items[0].image.name}", remedy, "no labels")


def _search(root: Path, name: str) -> Path | None:
    return next((Path(folder, name) for folder, _, files in os.walk(root) if name in files), None)


def _folders(survey: Survey, *, annotated: bool) -> dict[Path, None]:
    """Folders of images in the YAML, perhaps with those whose objects are not in label files."""
    sources = [source for split in survey.splits for source in getattr(survey.config, split)]
    folders = [source.images for source in sources if annotated and isinstance(source, AnnotatedImages)]
    folders += [source for source in sources if isinstance(source, Path)]
    return dict.fromkeys(folder for folder in folders if folder.is_dir())


def _unused_files(survey: Survey) -> Iterator[Finding]:
    """Pictures of a kind that is not read."""
    for root in _folders(survey, annotated=True):
        for folder, _, files in os.walk(root):
            for file in sorted(files):
                if Path(file).suffix.lower() in _PICTURES:
                    told = ("a picture that is not read", "a .jpg or .png, for example", "convert or remove it")
                    yield Finding(Path(folder, file), None, *told, kind="unused file")


def _orphans(survey: Survey) -> Iterator[Finding]:
    """Label files without an image of their name."""
    items = [item for item in survey.items() if item.origin.suffix == ".txt"]
    homes = {item.origin.parent: item.image.parent for item in items}  # folder of labels -> folder of its images
    for source in _folders(survey, annotated=False):
        root = label_path_of(source / "x.jpg").parent
        if root != source:
            for folder, _, _ in os.walk(root):
                homes.setdefault(Path(folder), source / Path(folder).relative_to(root))
    lists = {source for split in survey.splits for source in getattr(survey.config, split)}
    for labels, images in sorted(homes.items()):
        names = {file.stem for file in _files(images) if file.suffix.lower() in IMAGE_SUFFIXES}
        for file in _files(labels):
            if file.suffix == ".txt" and file.stem not in names and file not in lists and file.name not in _NO_LABELS:
                told = ("labels without an image", f"an image {images / file.stem}.jpg", "restore it, or delete them")
                yield Finding(file, None, *told, kind="orphan labels")


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
