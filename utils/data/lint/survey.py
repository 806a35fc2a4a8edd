"""Every image and every label of a data set, looked at once."""

import hashlib
import os
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from tqdm import tqdm

from utils.data.config import DatasetConfig, Split
from utils.data.images import Image, read_image
from utils.data.labels import LabelOrigin, Labels
from utils.data.lint.boxes import Place, check_boxes
from utils.data.lint.findings import Finding, finding_of
from utils.data.lint.rows import read_rows
from utils.data.lint.sources import find_splits
from utils.errors import UserError

MIN_SIDE = 10  # pixels; training refuses smaller images
THUMBNAIL = 16  # pixels a side

_BROKEN = {"is empty": "empty image file", "cut off": "cut-off image"}


@dataclass(eq=False)
class Item:
    """One image and its labels.

    Attributes:
        image: The file.
        origin: The file its objects are in; it need not exist.
        shape: (h, w) in pixels, upright; None if the image cannot be used.
        labels: Its objects.
        lines: Line of each object in a label file.
        findings: What is wrong with them.
        content: Digest of the file, or of nothing where it cannot be read.
        pixels: Digest of the decoded image.
        thumbnail: (16, 16, 3), the image averaged; empty if it cannot be used.
    """

    image: Path
    origin: Path
    shape: tuple[int, int] | None = None
    labels: Labels = field(default_factory=Labels)
    lines: list[int] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    content: bytes = b""
    pixels: bytes = b""
    thumbnail: Image = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))


@dataclass
class Survey:
    """All that is known of a data set.

    Attributes:
        config: Its YAML.
        splits: Items of each split of the YAML, sorted by path; of an image in several splits it is the same item.
        findings: What was found before single images were looked at.
    """

    config: DatasetConfig
    splits: dict[Split, list[Item]]
    findings: list[Finding]

    def items(self) -> list[Item]:
        """Each item once."""
        return list({id(item): item for items in self.splits.values() for item in items}.values())


def survey_dataset(config: DatasetConfig, imgsz: int) -> Survey:
    """Read all images and labels of a data set, with threads; whatever is wrong becomes a finding.

    Args:
        config: Its YAML.
        imgsz: Pixels of the long side of images in training.
    """
    splits, findings = find_splits(config)
    keys = {(image, origin.file): origin for origins in splits.values() for image, origin in origins.items()}
    work = partial(_check, names=config.names, imgsz=imgsz)
    items = dict(zip(keys, _in_threads(work, keys, keys.values()), strict=True))
    return Survey(
        config,
        {split: [items[image, origin.file] for image, origin in found.items()] for split, found in splits.items()},
        findings,
    )


def _in_threads(work: partial[Item], keys: Iterable[tuple[str, str]], origins: Iterable[LabelOrigin]) -> list[Item]:
    images = [image for image, _ in keys]
    # closing the results drops what still waits, so that Ctrl-C ends at once
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        closing(cast("Generator[Item, None, None]", pool.map(work, images, origins))) as results,
    ):
        return list(tqdm(results, "checking images and labels", len(images), unit="img"))


def _check(image: str, origin: LabelOrigin, *, names: dict[int, str], imgsz: int) -> Item:
    item = Item(Path(image), Path(origin.file))
    rows = read_rows(origin, item.image)
    item.labels, item.lines, item.findings = rows.labels, rows.lines, list(rows.findings)
    _check_image(item)
    if item.shape:
        place = Place(item.origin, item.image, item.lines)
        item.findings += check_boxes(item.labels.boxes, place, item.shape, names, imgsz)
        _check_size(item)
    _check_background(item)
    return item


def _check_image(item: Item) -> None:
    try:
        item.content = hashlib.sha256(item.image.read_bytes()).digest()
        pixels = read_image(item.image)
    except OSError as error:
        found = f"an unreadable file ({error.strerror})"
        item.findings.append(
            Finding(item.image, None, found, "an image", "check the path and its permissions", "broken image")
        )
        return
    except UserError as error:
        kind = next((kind for phrase, kind in _BROKEN.items() if phrase in str(error)), "broken image")
        item.findings.append(finding_of(str(error), kind, item.image, "an image that can be decoded"))
        return
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        found, expected = f"an image of {width} x {height} pixels", f"at least {MIN_SIDE} x {MIN_SIDE}"
        item.findings.append(Finding(item.image, None, found, expected, "remove it", "small image"))
        return
    item.shape = height, width
    item.pixels = hashlib.sha256(pixels.data).digest() + repr(item.shape).encode()
    item.thumbnail = cv2.resize(pixels, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)


def _check_size(item: Item) -> None:
    """Annotations that say the size of their image have to mean this one, perhaps resized."""
    if item.labels.size is None or item.shape is None:
        return
    (height, width), (h, w) = item.labels.size, item.shape
    if abs(height * w - width * h) > max(height, width, h, w):
        found = f"a size of {width:g} x {height:g} for {item.image.name}"
        remedy = "correct the annotation, or remove the EXIF orientation"
        finding = Finding(item.origin, None, found, f"{w} x {h} as the image", remedy, "size of another image")
        item.findings.append(finding.shown_by(item.image))


def _check_background(item: Item) -> None:
    """A label file without rows, or none at all; in annotated data sets, images without objects are usual."""
    if item.origin.suffix != ".txt" or len(item.labels.boxes) or item.labels.problems or item.labels.warnings:
        return
    if item.origin.exists():
        told = ("no object", "objects, or a background", "see that there is none in the image", "empty label file")
        item.findings.append(Finding(item.origin, None, *told, images=(item.image,)))
    else:
        told = ("no label file", str(item.origin), "see that there is no object in the image", "no label file")
        item.findings.append(Finding(item.image, None, *told, images=(item.image,)))
