"""Find the images of a data set and check every image and label once, before anything is trained or measured."""

import hashlib
import logging
import os
import zipfile
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
from tqdm import tqdm

from utils.data.images import read_image
from utils.data.labels import Array, Labels, label_path_of, read_labels
from utils.errors import UserError
from utils.files import PROGRAM_ROOT, atomic_write

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp", ".pfm"})
_SUFFIXES = " ".join(sorted(suffix.lstrip(".") for suffix in IMAGE_SUFFIXES))
_COMPANION_SUFFIXES = frozenset({".txt", ".cache"})  # labels, and what YOLOv5 keeps beside them
CACHE_FOLDER = PROGRAM_ROOT / ".cache" / "labels"
_CACHE_VERSION = "1"  # part of the key; another number makes old files unseen
_SHOWN_PROBLEMS = 20
_MIN_SIDE = 10  # pixels

_Checked = tuple[tuple[int, int], str | None, Labels]  # shape, problem of the image, labels


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
    sources: Sequence[Path],
    nc: int,
    *,
    single_cls: bool = False,
    require_labels: bool = True,
    workers: int | None = None,
) -> list[Sample]:
    """Find, read and check all images of some sources and their labels.

    Every image is decoded and every row of every label file parsed; nothing is left out silently and nothing changed
    on disk. The result is cached outside the data set, under a key of all paths, sizes and modification times.

    Args:
        sources: Folders, searched recursively, and text files with one image path a line. A relative path in a text
            file starts at the file's folder or, if there is nothing (and it does not begin with ./), at the current
            one.
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
    images = _find_images(sources)
    label_files = [str(label_path_of(Path(image))) for image in images]
    cache = CACHE_FOLDER / f"{_key(images, label_files, nc)}.npz"
    name = ", ".join(map(str, sources))
    scan = _load_cache(cache, images)
    if scan is None:
        scan = _scan(images, label_files, nc, workers or min(8, os.cpu_count() or 1))
        _save_cache(cache, scan)

    objects = sum(len(sample.labels) for sample in scan.samples)
    backgrounds = sum(not len(sample.labels) for sample in scan.samples)
    logger.info("%s: %d images, %d of them backgrounds, %d objects", name, len(images), backgrounds, objects)
    if scan.warnings:
        logger.warning("%s: %d label rows mended, the first: %s", name, len(scan.warnings), scan.warnings[0])
    if require_labels and not objects:
        raise UserError(
            f"{name}: found no labels for {len(images)} images, expected for example {label_files[0]}; "
            "put the label files there (the last folder called images is replaced by labels)"
        )
    if single_cls:
        return [
            replace(sample, labels=sample.labels * np.array([0, 1, 1, 1, 1], np.float32)) for sample in scan.samples
        ]
    return scan.samples


def _find_images(sources: Iterable[Path]) -> list[str]:
    found: set[str] = set()
    for source in sources:
        if source.is_dir():
            found |= _find_in_folder(source)
        elif source.suffix.lower() == ".txt" and source.is_file():
            found.update(_read_list(source))
        elif source.exists():
            raise UserError(f"{source}: expected a folder of images or a .txt file that lists images")
        else:
            raise UserError(f"{source}: no such folder or list of images; correct the data set YAML")
    if not found:
        raise UserError(f"{', '.join(map(str, sources))}: found no images, expected files ending in {_SUFFIXES}")
    return sorted(found)


def _find_in_folder(folder: Path) -> set[str]:
    """All images below a folder; says what else is there, unless it is hidden or goes with images, as labels do."""
    found: set[str] = set()
    others: Counter[str] = Counter()
    for file in _walk(os.path.abspath(folder)):  # noqa: PTH100
        suffix = _suffix(file)
        if suffix in IMAGE_SUFFIXES:
            found.add(file)
        elif suffix not in _COMPANION_SUFFIXES and not os.path.basename(file).startswith("."):  # noqa: PTH119
            others[suffix or "none"] += 1
    if others:
        logger.info("%s: %d files of other types left out (%s)", folder, others.total(), ", ".join(sorted(others)))
    return found


def _suffix(file: str) -> str:
    return os.path.splitext(file)[1].lower()  # noqa: PTH122 - for a data set of millions of files


def _walk(folder: str, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """All files below a folder, also through symbolic links, unless they lead back to a folder `above`."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(entry.path, above | {real})
            else:
                yield entry.path


def _read_list(file: Path) -> list[str]:
    images: list[str] = []
    problems: list[str] = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines(), start=1):
        entry = line.strip()
        if not entry:
            continue
        candidates = [file.parent / entry] if entry.startswith("./") else [file.parent / entry, Path(entry)]
        image = next((path for path in candidates if path.is_file()), None)
        if image is None:
            problems.append(f"{file}:{number}: found no image {candidates[0]}")
        elif _suffix(entry) not in IMAGE_SUFFIXES:
            problems.append(f"{file}:{number}: {image} is no image, files of those end in {_SUFFIXES}")
        else:
            images.append(os.path.abspath(image))  # noqa: PTH100
    if problems:
        more = f" (and {len(problems) - 1} more lines like it)" if len(problems) > 1 else ""
        raise UserError(
            f"{problems[0]}{more}; expected the path of an image, absolute or relative to the list; correct the list"
        )
    return images


def _scan(images: list[str], label_files: list[str], nc: int, workers: int) -> _Scan:
    scan = _Scan()
    problems: list[str] = []
    bad_files = 0
    objects = backgrounds = 0

    def check(image: str, label_file: str) -> _Checked:
        shape, problem = _check_image(Path(image))
        return shape, problem, read_labels(Path(label_file), nc)

    # closing the results drops what still waits, so that Ctrl-C ends at once
    with (
        ThreadPoolExecutor(workers) as pool,
        closing(cast("Generator[_Checked, None, None]", pool.map(check, images, label_files))) as results,
        tqdm(total=len(images), desc="checking images and labels", unit="img") as bar,
    ):
        for image, (shape, image_problem, labels) in zip(images, results, strict=True):
            new = ([image_problem] if image_problem else []) + [str(problem) for problem in labels.problems]
            problems += new
            bad_files += bool(image_problem) + bool(labels.problems)
            objects += len(labels.boxes)
            backgrounds += not len(labels.boxes)
            scan.warnings += labels.warnings
            scan.samples.append(Sample(Path(image), shape, labels.boxes, labels.polygons))
            bar.set_postfix(objects=objects, backgrounds=backgrounds, problems=len(problems), refresh=False)
            bar.update()
    if problems:
        _refuse(problems, bad_files)
    return scan


def _check_image(image: Path) -> tuple[tuple[int, int], str | None]:
    try:
        height, width = read_image(image).shape[:2]
    except UserError as error:
        return (0, 0), str(error)
    if min(height, width) < _MIN_SIDE:
        found = f"found an image of {width} x {height} pixels"
        return (0, 0), f"{image}: {found}, expected at least {_MIN_SIDE} x {_MIN_SIDE}; remove it"
    return (height, width), None


def _refuse(problems: list[str], bad_files: int) -> None:
    for problem in problems[:_SHOWN_PROBLEMS]:
        logger.error(problem)
    if len(problems) > _SHOWN_PROBLEMS:
        logger.error("... and %d more", len(problems) - _SHOWN_PROBLEMS)
    more = f" (and {len(problems) - 1} more problems; {bad_files} files are bad)" if len(problems) > 1 else ""
    raise UserError(f"{problems[0]}{more}")


def _key(images: list[str], label_files: list[str], nc: int) -> str:
    digest = hashlib.sha256(f"{_CACHE_VERSION} {nc}".encode())
    for file in (*images, *label_files):
        try:
            stat = os.stat(file)  # noqa: PTH116
            state = f"{stat.st_size} {stat.st_mtime_ns}"
        except OSError:
            state = "missing"
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
