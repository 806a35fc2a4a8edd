"""The boxes of a COCO-style JSON as arrays; as entries, tens of millions would fill the memory."""

from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from utils.data.converters.json_stream import stream_entries
from utils.data.converters.label_files import PixelBox
from utils.errors import UserError

_MOST_PIXELS = 1e9  # neither NaN nor the infinities that JSON of some programs has are less


@dataclass(frozen=True, eq=False)
class CocoTable:
    """Images and boxes of one COCO-style JSON.

    Attributes:
        file: The JSON.
        images: id -> values of the keys asked for.
        image_ids: (n,) of the boxes.
        category_ids: (n,).
        boxes: (n, 4) left, top, width, height in pixels.
        others: The other lists asked for.
    """

    file: Path
    images: dict[int, tuple[Any, ...]]
    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float32]
    others: dict[str, list[Any]]

    def by_image(self, classes: Mapping[int, int]) -> Iterator[tuple[tuple[Any, ...], list[PixelBox]]]:
        """The values kept of each image and its boxes, in the order of the JSON.

        Args:
            classes: Category id -> class.

        Raises:
            UserError: If a box has another category, or belongs to no image.
        """
        self._check_ids("category_id", self.category_ids, classes)
        self._check_ids("image_id", self.image_ids, self.images)
        order = np.argsort(self.image_ids, kind="stable")
        keys = np.fromiter(self.images, np.int64, len(self.images))
        starts = np.searchsorted(self.image_ids, keys, "left", sorter=order).tolist()
        ends = np.searchsorted(self.image_ids, keys, "right", sorter=order).tolist()
        for values, start, end in zip(self.images.values(), starts, ends, strict=True):
            rows = order[start:end]
            boxes = zip(self.category_ids[rows].tolist(), self.boxes[rows].tolist(), strict=True)
            yield values, [(classes[category], x, y, x + w, y + h) for category, (x, y, w, h) in boxes]

    def _check_ids(self, key: str, found: NDArray[np.int64], known: Collection[int]) -> None:
        unknown = sorted(set(np.unique(found).tolist()).difference(known))
        if unknown:
            raise UserError(
                f"{self.file}: found {key} {unknown[0]} in annotations, expected one of the {len(known)} known; "
                "restore the official file"
            )


def read_coco_table(file: Path, image_keys: Sequence[str], others: Sequence[str] = ()) -> CocoTable:
    """Read a COCO-style JSON (https://cocodataset.org/#format-data) once, front to end, and leave out the crowds.

    A box takes 28 bytes of memory. Entries of `images` and `annotations` may come in any order.

    Args:
        file: The JSON.
        image_keys: What to keep of each image.
        others: Further lists to keep.

    Raises:
        UserError: If the file is no such JSON or an entry is bad.
    """
    images: dict[int, tuple[Any, ...]] = {}
    image_ids, category_ids, boxes = array("q"), array("q"), array("f")
    further: dict[str, list[Any]] = {key: [] for key in others}
    entries = stream_entries(file, ("images", "annotations", *others))
    for key, entry in tqdm(entries, desc=f"reading {file.name}", unit=" entries", unit_scale=True):
        try:
            if key == "images":
                _add_image(images, entry, image_keys)
            elif key == "annotations":
                if not entry.get("iscrowd"):
                    image_ids.append(entry["image_id"])
                    category_ids.append(entry["category_id"])
                    boxes.extend(_check_box(entry["bbox"]))
            else:
                further[key].append(entry)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise UserError(
                f"{file}: found {shortened(entry)} in {key}, expected an entry as COCO has it ({error!r}); restore the "
                "official file"
            ) from error
    return CocoTable(
        file, images, np.asarray(image_ids), np.asarray(category_ids), np.asarray(boxes).reshape(-1, 4), further
    )


def _add_image(images: dict[int, tuple[Any, ...]], entry: dict[str, Any], keys: Sequence[str]) -> None:
    index = entry["id"]
    if type(index) is not int or index in images:
        raise ValueError(f"id {index!r} is no number of its own")
    images[index] = tuple(entry[key] for key in keys)
    if not all(isinstance(value, str | int) for value in images[index]):
        raise TypeError(f"{', '.join(keys)} are neither texts nor whole numbers")


def _check_box(box: list[float]) -> list[float]:
    if len(box) != 4 or not all(abs(value) < _MOST_PIXELS for value in box):
        raise ValueError("bbox is not left, top, width, height")
    return box
