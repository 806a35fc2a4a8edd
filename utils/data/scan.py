"""Find the images of a data set and check every image and label once, before anything is trained or measured."""

import hashlib
import logging
import os
import zipfile
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from tqdm import tqdm

from utils.data.annotated import AnnotatedImages, Source
from utils.data.images import read_image
from utils.data.labels import Array, LabelOrigin, Labels, label_path_of, read_labels
from utils.data.listing import SHOWN_SUFFIXES, list_images
from utils.errors import UserError
from utils.files import PROGRAM_ROOT, atomic_write

logger = logging.getLogger(__name__)

CACHE_FOLDER = PROGRAM_ROOT / ".cache" / "labels"
_CACHE_VERSION = "1"  # part of the key; another number makes old files unseen
_SHOWN_PROBLEMS = 20
_MIN_SIDE = 10  # pixels

_Checked = tuple[tuple[int, int], Labels, list[str]]  # shape, labels, problems of both


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and its objects.

    Attributes:
        path: The image file.
        shape: (h, w) in pixels, upright as the EXIF orientation says.
        labels: (n, 5) class, cx, cy, w, h; coordinates as fractions of the image.
        polygons: n entries, row by row with `labels`: (k, 2) x, y as fractions of the image, or None.
    """

    path: Path
    shape: tuple[int, int]
    labels: Array
    polygons: list[Array | None]


@dataclass
class _Scan:
    """All that is known after a scan; what the cache holds."""

    samples: list[Sample] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def scan_samples(
    sources: Sequence[Source],
    nc: int,
    *,
    single_cls: bool = False,
    require_labels: bool = True,
    workers: int | None = None,
) -> list[Sample]:
    """Find, read and check all images of some sources and their labels.

    Every image is decoded and every row of every annotation parsed; nothing is left out silently and nothing changed
    on disk. The result is cached outside the data set, under a key of all paths, sizes and modification times.

    Args:
        sources: Folders and lists of images with YOLO labels, see `list_images`, and images with other annotations.
        nc: Number of classes of the labels.
        single_cls: Make all objects class 0, after the check against `nc`.
        require_labels: Refuse sources without a single object.
        workers: Number of threads; by default one a CPU, at most 8.

    Returns:
        The samples, sorted by path as a string, each image once.

    Raises:
        UserError: If a source is missing or has no images, if any image or row is bad (all of them are looked at
            first; the log has the others), or if there is no object at all.
    """
    images = _find_images(sources, nc)
    cache = CACHE_FOLDER / f"{_key(sources, images, nc)}.npz"
    name = ", ".join(map(str, sources))
    scan = _load_cache(cache, list(images))
    if scan is None:
        scan = _scan(images, workers or min(8, os.cpu_count() or 1))
        _save_cache(cache, scan)

    objects = sum(len(sample.labels) for sample in scan.samples)
    backgrounds = sum(not len(sample.labels) for sample in scan.samples)
    logger.info("%s: %d images, %d of them backgrounds, %d objects", name, len(images), backgrounds, objects)
    if scan.warnings:
        logger.warning("%s: %d label rows mended, the first: %s", name, len(scan.warnings), scan.warnings[0])
    if require_labels and not objects:
        example = next(iter(images.values())).file
        raise UserError(
            f"{name}: found no labels for {len(images)} images, expected for example in {example}; "
            "put the label files there (the last folder called images is replaced by labels), or name `annotations`"
        )
    if single_cls:
        return [
            replace(sample, labels=sample.labels * np.array([0, 1, 1, 1, 1], np.float32)) for sample in scan.samples
        ]
    return scan.samples


def _find_images(sources: Iterable[Source], nc: int) -> dict[str, LabelOrigin]:
    """Absolute path of each image -> where its objects are, sorted."""
    found: dict[str, LabelOrigin] = {}
    for source in sources:
        new = source.find() if isinstance(source, AnnotatedImages) else _find_yolo(source, nc)
        for image, origin in new.items():
            other = found.setdefault(image, origin)
            if other.file != origin.file:
                raise UserError(
                    f"{image}: found objects of it in {other.file} and in {origin.file}, expected them in one place; "
                    "correct the sources in the data set YAML"
                )
    if not found:
        names = ", ".join(map(str, sources))
        raise UserError(f"{names}: found no images, expected files ending in {SHOWN_SUFFIXES}")
    return dict(sorted(found.items()))


def _find_yolo(source: Path, nc: int) -> dict[str, LabelOrigin]:
    labels = {image: label_path_of(Path(image)) for image in sorted(list_images(source))}
    return {image: LabelOrigin(str(file), partial(read_labels, file, nc)) for image, file in labels.items()}


def _scan(images: Mapping[str, LabelOrigin], workers: int) -> _Scan:
    scan = _Scan()
    problems: list[str] = []
    bad_images = 0
    objects = backgrounds = 0

    # closing the results drops what still waits, so that Ctrl-C ends at once
    with (
        ThreadPoolExecutor(workers) as pool,
        closing(cast("Generator[_Checked, None, None]", pool.map(_check, images, images.values()))) as results,
        tqdm(total=len(images), desc="checking images and labels", unit="img") as bar,
    ):
        for image, (shape, labels, new) in zip(images, results, strict=True):
            problems += new
            bad_images += bool(new)
            objects += len(labels.boxes)
            backgrounds += not len(labels.boxes)
            scan.warnings += labels.warnings
            scan.samples.append(Sample(Path(image), shape, labels.boxes, labels.polygons))
            bar.set_postfix(objects=objects, backgrounds=backgrounds, problems=len(problems), refresh=False)
            bar.update()
    if problems:
        _refuse(problems, bad_images)
    return scan


def _check(image: str, origin: LabelOrigin) -> _Checked:
    shape, problem = _check_image(Path(image))
    problems = [problem] if problem else []
    try:
        labels = origin.read()
    except UserError as error:
        return shape, Labels(), [*problems, str(error)]
    problems += map(str, labels.problems)
    if labels.size and not problem and not same_proportions(labels.size, shape):
        sizes = [f"{width:g} x {height:g}" for height, width in (labels.size, shape)]
        problems.append(
            f"{origin.file}: found a size of {sizes[0]} for {image}, expected {sizes[1]} as the image, upright by its "
            "EXIF orientation; correct the annotation, or remove the orientation"
        )
    return shape, labels, problems


def same_proportions(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether one size (h, w) may be the other resized, its sides rounded to whole pixels."""
    return abs(first[0] * second[1] - first[1] * second[0]) <= max(*first, *second)


def _check_image(image: Path) -> tuple[tuple[int, int], str | None]:
    try:
        height, width = read_image(image).shape[:2]
    except UserError as error:
        return (0, 0), str(error)
    if min(height, width) < _MIN_SIDE:
        found = f"found an image of {width} x {height} pixels"
        return (0, 0), f"{image}: {found}, expected at least {_MIN_SIDE} x {_MIN_SIDE}; remove it"
    return (height, width), None


def _refuse(problems: list[str], bad_images: int) -> None:
    for problem in problems[:_SHOWN_PROBLEMS]:
        logger.error(problem)
    if len(problems) > _SHOWN_PROBLEMS:
        logger.error("... and %d more", len(problems) - _SHOWN_PROBLEMS)
    more = f" (and {len(problems) - 1} more problems; {bad_images} images are concerned)" if len(problems) > 1 else ""
    raise UserError(f"{problems[0]}{more}")


def _key(sources: Iterable[Source], images: Mapping[str, LabelOrigin], nc: int) -> str:
    annotated = "".join(map(repr, filter(lambda source: isinstance(source, AnnotatedImages), sources)))
    digest = hashlib.sha256(f"{_CACHE_VERSION} {nc}{annotated}".encode())
    for file in (*images, *dict.fromkeys(origin.file for origin in images.values())):
        try:
            stat = os.stat(file)  # noqa: PTH116
            state = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
        except OSError:
            state = "link to nothing" if Path(file).is_symlink() else "missing"
        digest.update(f"\0{file}\0{state}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _save_cache(file: Path, scan: _Scan) -> None:
    polygons = [polygon for sample in scan.samples for polygon in sample.polygons]
    points = [polygon for polygon in polygons if polygon is not None]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as stream:
            np.savez(
                stream,
                shapes=np.array([sample.shape for sample in scan.samples], np.int32),
                objects=np.array([len(sample.labels) for sample in scan.samples], np.int64),
                labels=np.concatenate([sample.labels for sample in scan.samples]),
                corners=np.array([0 if polygon is None else len(polygon) for polygon in polygons], np.int64),
                points=np.concatenate([*points, np.zeros((0, 2), np.float32)]),
                warnings=np.array(scan.warnings, np.str_),
            )
    except OSError as error:
        logger.warning("%s: cannot keep the result of the check (%s); it will be repeated", file, error.strerror)


def _load_cache(file: Path, images: list[str]) -> _Scan | None:
    try:
        with np.load(file, allow_pickle=False) as cache:
            arrays = {name: cache[name] for name in cache.files}
        shapes, labels, warnings = arrays["shapes"].tolist(), arrays["labels"], arrays["warnings"].tolist()
        ends = np.cumsum(arrays["objects"])
        polygons = [
            polygon if len(polygon) else None
            for polygon in np.split(arrays["points"], np.cumsum(arrays["corners"])[:-1])[: len(labels)]
        ]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    samples = [
        Sample(Path(image), (height, width), labels[end - count : end], polygons[end - count : end])
        for image, (height, width), count, end in zip(
            images, shapes, arrays["objects"].tolist(), ends.tolist(), strict=True
        )
    ]
    return _Scan(samples, warnings)
