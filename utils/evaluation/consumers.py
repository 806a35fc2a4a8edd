"""What is done with the detections of an evaluation besides measuring them: text files, COCO JSON, pictures."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from utils.errors import UserError
from utils.evaluation.annotations import Id
from utils.evaluation.coco import coco_results
from utils.evaluation.matching import GroundTruth
from utils.files import write_text
from utils.nms import Detections
from utils.show.pictures import UniqueNames
from utils.show.writers import detection_rows


@dataclass(frozen=True)
class ImageResult:
    """One evaluated image.

    Attributes:
        path: The image file.
        shape: (h, w) of the original image.
        detections: Found boxes in pixels of the original image, in main memory.
        labels: Labelled boxes in the same pixels.
    """

    path: Path
    shape: tuple[int, int]
    detections: Detections
    labels: GroundTruth


@dataclass(frozen=True)
class BatchResult:
    """One evaluated batch.

    Attributes:
        pixels: uint8 (B, 3, H, W) RGB network input.
        targets: float32 (T, 6) image index, class, cx, cy, w, h as fractions of the network input.
        detections: B detections in pixels of the network input, in main memory.
        images: The same B images in pixels of the originals.
    """

    pixels: Tensor
    targets: Tensor
    detections: list[Detections]
    images: list[ImageResult]


class Consumer(Protocol):
    """Takes the results of an evaluation batch by batch."""

    def update(self, result: BatchResult) -> None:
        """Take the next batch."""

    def finish(self) -> None:
        """Write what is still to be written; called once, after the last batch."""


class TextWriter:
    """Writes `<stem>.txt` for each image with detections: `class cx cy w h [conf]`, fractions of the original image."""

    def __init__(self, folder: Path, *, save_conf: bool = False) -> None:
        """Create the folder.

        Args:
            folder: Where the files go; images of one name get -2, -3, ... behind the stem.
            save_conf: Append the confidence to each row.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.save_conf = save_conf
        self.files: set[Path] = set()
        self._names = UniqueNames()

    def update(self, result: BatchResult) -> None:
        """Write the files of one batch."""
        for image in result.images:
            file = self.folder / self._names.reserve(f"{image.path.stem}.txt")
            if len(image.detections):
                rows = detection_rows(image.detections, image.shape, confidence=self.save_conf)
                write_text(file, "".join(rows))
                self.files.add(file)
            else:
                file.unlink(missing_ok=True)  # of an earlier run

    def finish(self) -> None:
        """Nothing is left to write."""


class CocoJsonWriter:
    """Collects detections in the results format of COCO and writes them as one JSON file.

    https://cocodataset.org/#format-results
    """

    def __init__(self, file: Path, category_ids: Sequence[Id], image_ids: Mapping[Path, Id]) -> None:
        """Start empty.

        Args:
            file: Where the list goes.
            category_ids: Class index -> `category_id`.
            image_ids: Image file -> `image_id`.
        """
        self.file = file
        self.category_ids = category_ids
        self.image_ids = image_ids
        self.rows: list[dict[str, Any]] = []

    def update(self, result: BatchResult) -> None:
        """Add the detections of one batch."""
        for image in result.images:
            image_id = self.image_ids[image.path]
            boxes, scores = coco_results(image.detections)
            for box, score, cls in zip(boxes.tolist(), scores.tolist(), image.detections.cls.tolist(), strict=True):
                row = {"image_id": image_id, "category_id": self.category_ids[cls], "bbox": box, "score": score}
                self.rows.append(row)

    def finish(self) -> None:
        """Write the file."""
        write_text(self.file, json.dumps(self.rows))


def ids_by_name(images: Iterable[Path]) -> dict[Path, Id]:
    """Image file -> `image_id` where no annotations tell it: the name without suffix, as a number if it is one.

    Raises:
        UserError: If two images would have the same.
    """
    ids: dict[Path, Id] = {}
    first: dict[Id, Path] = {}
    for path in images:
        key = ids[path] = int(path.stem) if path.stem.isascii() and path.stem.isdigit() else path.stem
        if (other := first.setdefault(key, path)) != path:
            raise UserError(f"--save-json: {other} and {path} would both be image {key!r}; rename one, or leave it out")
    return ids


class BatchPictures:
    """Draws the first batches: `val_batch{i}_labels.jpg` with labels, `val_batch{i}_pred.jpg` with detections."""

    COUNT = 3
    CONF = 0.25

    def __init__(self, folder: Path, names: dict[int, str]) -> None:
        """Start with batch 0.

        Args:
            folder: Where the pictures go.
            names: Class index -> name.
        """
        self.folder = folder
        self.names = names
        self.index = 0

    def update(self, result: BatchResult) -> None:
        """Draw one batch, if it is among the first."""
        if self.index < self.COUNT:
            from utils.show.mosaic import save_detections_mosaic, save_targets_mosaic

            stem = f"val_batch{self.index}"
            titles = [image.path.name for image in result.images]
            save_targets_mosaic(self.folder / f"{stem}_labels.jpg", result.pixels, result.targets, self.names, titles)
            confident = [_above(found, self.CONF) for found in result.detections]
            save_detections_mosaic(self.folder / f"{stem}_pred.jpg", result.pixels, confident, self.names, titles)
        self.index += 1

    def finish(self) -> None:
        """Nothing is left to draw."""


def _above(detections: Detections, conf: float) -> Detections:
    keep = detections.conf > conf
    return Detections(detections.xyxy[keep], detections.conf[keep], detections.cls[keep])
