"""The resized images of a data set: read whenever they are needed, or kept in memory or on disk."""

import functools
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from utils.data.images import Image, read_resized, resized_shape
from utils.data.packed import PackedSamples
from utils.files import PROGRAM_ROOT, atomic_write

logger = logging.getLogger(__name__)

CacheKind = Literal["ram", "disk"]
CACHE_FOLDER = PROGRAM_ROOT / ".cache" / "images"
_VERSION = "1"  # part of the key; another number makes old files unseen
_MARGIN = 1.1
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


class ImageReader(Protocol):
    """Where resized images come from."""

    def shape(self, index: int) -> tuple[int, int]:
        """(h, w) of an image, without reading it."""

    def __call__(self, index: int) -> Image:
        """The image, (h, w, 3) BGR, not to be written to."""


def open_images(
    samples: PackedSamples, imgsz: int, *, augment: bool, cache: CacheKind | None = None, copies: int = 1
) -> ImageReader:
    """Resized images, kept in a cache if one is wanted and fits; a cache changes nothing but the time.

    The caches are filled here, by threads. How much they take is known exactly beforehand.

    Args:
        samples: Files and the shapes of their images.
        imgsz: Pixels of the long side.
        augment: Be fast rather than exact, see `read_resized`.
        cache: "ram" for memory of this process, which its workers share; "disk" for files in `CACHE_FOLDER`.
        copies: Processes of this machine that keep a cache in memory at a time.

    Raises:
        UserError: If an image cannot be read while a cache is filled.
    """
    files = FileReader(samples, imgsz, augment=augment)
    if cache == "ram":
        free, what = available_memory(), "memory"
        needed = int(files.sizes.sum()) * copies
        if needed * _MARGIN <= free:
            return RamCache(files)
        remedy = "try --cache disk, or a smaller --imgsz"
    elif cache == "disk":
        disk = DiskCache(files, CACHE_FOLDER)
        missing = disk.missing()
        free, what = _free_disk(CACHE_FOLDER), f"space in {CACHE_FOLDER}"
        needed = int(files.sizes[missing].sum())
        if needed * _MARGIN <= free:
            disk.fill(missing)
            return disk
        remedy = "what is in there can be removed at any time"
    else:
        return files
    logger.warning(
        "--cache %s: %d images need %.1f GB, but there are only %.1f GB of %s; they are not cached (%s)",
        *(cache, len(samples), needed / 1e9, free / 1e9, what, remedy),
    )
    return files


class FileReader:
    """Reads and resizes the image files."""

    def __init__(self, samples: PackedSamples, imgsz: int, *, augment: bool) -> None:
        """Read nothing yet; for the arguments see `open_images`."""
        self.samples = samples
        self.imgsz = imgsz
        self.augment = augment

    @functools.cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(n,) bytes of each resized image."""
        return np.array([3 * height * width for height, width in map(self.shape, range(len(self.samples)))], np.int64)

    def shape(self, index: int) -> tuple[int, int]:
        """(h, w) of a resized image."""
        return resized_shape(self.samples.shape(index), self.imgsz)

    def __call__(self, index: int) -> Image:
        """A resized image.

        Raises:
            UserError: If the file cannot be read or has changed.
        """
        samples = self.samples
        return read_resized(samples.path(index), samples.shape(index), self.imgsz, augment=self.augment)


class RamCache:
    """All images in one piece of memory: forked workers see it, spawned ones get it as shared memory."""

    def __init__(self, files: FileReader) -> None:
        """Read all images.

        Raises:
            UserError: If an image cannot be read.
        """
        self._files = files
        self._ends = torch.from_numpy(np.cumsum([0, *files.sizes], dtype=np.int64))
        self._pixels = torch.empty(int(self._ends[-1]), dtype=torch.uint8)

        def keep(index: int) -> None:
            self._bytes(index)[:] = files(index).reshape(-1)

        _for_all(keep, range(len(files.samples)), f"caching {len(self._pixels) / 1e9:.1f} GB of images in memory")

    def shape(self, index: int) -> tuple[int, int]:
        """(h, w) of a resized image."""
        return self._files.shape(index)

    def __call__(self, index: int) -> Image:
        """A resized image, read-only."""
        image = self._bytes(index).reshape(*self.shape(index), 3)
        image.flags.writeable = False
        return image

    def _bytes(self, index: int) -> Image:
        start, end = self._ends[index : index + 2].tolist()
        return self._pixels[start:end].numpy()


class DiskCache:
    """A file of raw pixels for each image, in the program's own cache folder and never beside the image.

    The name of a file stands for path, size and modification time of the image and for how it was resized. An image
    that has changed has another name, so the next loader reads it anew.
    """

    def __init__(self, files: FileReader, folder: Path) -> None:
        """Write nothing yet.

        Args:
            files: Read what is not in the cache.
            folder: Of the cache.
        """
        self._files = files
        self._folder = folder
        keys = [self._key(index) for index in range(len(files.samples))]
        self._keys = torch.from_numpy(np.frombuffer(bytearray(b"".join(keys)), np.uint8)).view(len(keys), -1)

    def missing(self) -> list[int]:
        """Indices of the images that are not in the cache."""
        return [i for i, size in enumerate(self._files.sizes.tolist()) if _size(self._file(i)) != size]

    def fill(self, missing: list[int]) -> None:
        """Write images to the cache; other processes may do the same at the same time.

        Raises:
            UserError: If an image cannot be read.
        """

        def keep(index: int) -> None:
            image, file = self._files(index), self._file(index)
            if self._key(index) != self._keys[index].numpy().tobytes():
                return  # changed just now
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as stream:
                stream.write(image.tobytes())

        try:
            _for_all(keep, missing, f"caching images in {self._folder}")
        except OSError as error:
            logger.warning("%s: cannot be written (%s); some images are not cached", self._folder, error.strerror)

    def shape(self, index: int) -> tuple[int, int]:
        """(h, w) of a resized image."""
        return self._files.shape(index)

    def __call__(self, index: int) -> Image:
        """A resized image, read-only; only what is looked at comes from the disk.

        Raises:
            UserError: If it is not in the cache and its file cannot be read.
        """
        try:
            return np.memmap(self._file(index), np.uint8, "r", shape=(*self.shape(index), 3))
        except (OSError, ValueError):  # missing; cut off
            return self._files(index)

    def _key(self, index: int) -> bytes:
        path = self._files.samples.path(index)
        try:
            stat = path.stat()
            state = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
        except OSError:
            state = "missing"
        text = f"{_VERSION} {self._files.imgsz} {self._files.augment} {state} ".encode() + os.fsencode(path)
        return hashlib.sha256(text).digest()[:16]

    def _file(self, index: int) -> Path:
        name = self._keys[index].numpy().tobytes().hex()
        return self._folder / name[:2] / name[2:]


def available_memory() -> int:
    """Bytes that can be taken without swapping, as far as the system tells; a container's limit counts."""
    free = []
    try:
        lines = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
        free.append(1024 * int(lines["MemAvailable"].split()[0]))
    except (OSError, KeyError, ValueError):  # not Linux: half of what there is, if that is known
        if hasattr(os, "sysconf"):
            free.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    try:
        limit, used = ((_CGROUP / name).read_text() for name in ("memory.max", "memory.current"))
        free.append(int(limit) - int(used))
    except (OSError, ValueError):  # no limit
        pass
    return min(free, default=0)


def _free_disk(folder: Path) -> int:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(existing).free


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1


def _for_all(work: Callable[[int], None], indices: range | list[int], title: str) -> None:
    """Work on all indices with threads, and show how far that is."""
    if not indices:
        return
    # closing the results drops what still waits, so that Ctrl-C ends at once
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        closing(cast("Generator[None, None, None]", pool.map(work, indices))) as results,
    ):
        for _ in tqdm(results, title, len(indices), unit="img"):
            pass
