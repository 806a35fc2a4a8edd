"""What an evaluation leaves behind for later comparisons: which detection of which image was right, and how sure."""

import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError
from utils.evaluation.consumers import BatchResult, ImageResult
from utils.evaluation.matching import match_predictions
from utils.evaluation.metrics import IOU_THRESHOLDS
from utils.files import atomic_write

FILE_NAME = "matches.npz"
FORMAT = 1


@dataclass(frozen=True)
class Record:
    """The matches of n evaluated images with m labels and d detections, in the order of the evaluation.

    Attributes:
        classes: (nc,) str, class names.
        images: (n,) str, image files, relative to the folder that they have in common.
        label_counts: (n,) labels of each image.
        label_cls: (m,) class index.
        label_xyxy: (m, 4) float32 corners in pixels of the original image.
        detection_counts: (n,) detections of each image.
        conf: (d,) float32, most confident first within an image.
        cls: (d,) class index.
        tp: (d, 10) bool, whether a detection is a true positive at each of `IOU_THRESHOLDS`.
    """

    classes: NDArray[np.str_]
    images: NDArray[np.str_]
    label_counts: NDArray[np.int32]
    label_cls: NDArray[np.int32]
    label_xyxy: NDArray[np.float32]
    detection_counts: NDArray[np.int32]
    conf: NDArray[np.float32]
    cls: NDArray[np.int32]
    tp: NDArray[np.bool_]

    def __post_init__(self) -> None:
        n, m, d = len(self.images), int(self.label_counts.sum()), int(self.detection_counts.sum())
        shapes = {
            "label_counts": (n,),
            "label_cls": (m,),
            "label_xyxy": (m, 4),
            "detection_counts": (n,),
            "conf": (d,),
            "cls": (d,),
            "tp": (d, len(IOU_THRESHOLDS)),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, expected {shape}")
        for name in ("label_cls", "cls"):
            values = getattr(self, name)
            if len(values) and not 0 <= values.min() <= values.max() < len(self.classes):
                raise ValueError(f"{name} has a class beyond the {len(self.classes)} named")

    @property
    def label_image(self) -> NDArray[np.intp]:
        """(m,) index of the image of each label."""
        return np.repeat(np.arange(len(self.images)), self.label_counts)

    @property
    def detection_image(self) -> NDArray[np.intp]:
        """(d,) index of the image of each detection."""
        return np.repeat(np.arange(len(self.images)), self.detection_counts)


class MatchRecorder:
    """Collects the matches of an evaluation and writes them as one compressed file of plain arrays."""

    def __init__(self, file: Path, names: dict[int, str]) -> None:
        """Start empty.

        Args:
            file: .npz
            names: Class index -> name.
        """
        self.file = file
        self._names = names
        self._paths: list[Path] = []
        self._columns: dict[str, list[NDArray[Any]]] = {name: [empty] for name, empty in _EMPTY.items()}

    def update(self, result: BatchResult) -> None:
        """Add the images of one batch."""
        for image in result.images:
            self._add(image)

    def _add(self, image: ImageResult) -> None:
        found, labels = image.detections, image.labels
        self._paths.append(image.path)
        row = {
            "label_counts": np.array([len(labels)]),
            "label_cls": labels.cls.numpy(),
            "label_xyxy": labels.xyxy.numpy(),
            "detection_counts": np.array([len(found)]),
            "conf": found.conf.numpy(),
            "cls": found.cls.numpy(),
            "tp": match_predictions(found, labels.cls, labels.xyxy, IOU_THRESHOLDS).numpy(),
        }
        for name, values in row.items():
            self._columns[name].append(values.astype(_EMPTY[name].dtype))

    def record(self) -> Record:
        """All images added so far."""
        columns = {name: np.concatenate(parts) for name, parts in self._columns.items()}
        classes = np.array([self._names[index] for index in sorted(self._names)], dtype=np.str_)
        return Record(classes=classes, images=image_names(self._paths), **columns)

    def finish(self) -> None:
        """Write the file."""
        write_record(self.file, self.record())


_EMPTY: dict[str, NDArray[Any]] = {
    "label_counts": np.zeros(0, np.int32),
    "label_cls": np.zeros(0, np.int32),
    "label_xyxy": np.zeros((0, 4), np.float32),
    "detection_counts": np.zeros(0, np.int32),
    "conf": np.zeros(0, np.float32),
    "cls": np.zeros(0, np.int32),
    "tp": np.zeros((0, len(IOU_THRESHOLDS)), np.bool_),
}


def image_names(paths: Sequence[Path]) -> NDArray[np.str_]:
    """Names of images that are the same wherever their data set lies.

    Args:
        paths: n files.

    Returns:
        (n,) relative to the folder that they have in common.
    """
    absolute = [path.absolute() for path in paths]
    if not absolute:
        return np.zeros(0, np.str_)
    common = Path(os.path.commonpath([path.parent for path in absolute]))
    return np.array([path.relative_to(common).as_posix() for path in absolute], dtype=np.str_)


def write_record(file: Path, record: Record) -> None:
    """Write a record, atomically.

    Args:
        file: .npz
        record: What to write.
    """
    arrays = {"format": np.array(FORMAT), "classes": record.classes, "images": record.images}
    arrays |= {name: getattr(record, name) for name in _EMPTY}
    arrays["tp"] = np.packbits(record.tp, axis=1)  # ten flags in two bytes
    with atomic_write(file) as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def read_record(path: Path) -> Record:
    """Read what an evaluation left behind.

    Args:
        path: Folder of a run of val.py, or the file itself.

    Raises:
        UserError: If there is none, or it cannot be read.
    """
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected the folder of a run of val.py that wrote {FILE_NAME}")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = int(arrays["format"])
            if found != FORMAT:
                raise ValueError(f"format {found}, expected {FORMAT}")
            columns = {name: arrays[name].astype(empty.dtype) for name, empty in _EMPTY.items() if name != "tp"}
            tp = np.unpackbits(arrays["tp"], axis=1, count=len(IOU_THRESHOLDS)).astype(bool)
            classes, images = arrays["classes"].astype(np.str_), arrays["images"].astype(np.str_)
            return Record(classes=classes, images=images, tp=tp, **columns)
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        EOFError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        detail = "it would have to run code to be read" if "allow_pickle" in str(error) else error
        raise UserError(f"{file}: not a record of val.py ({detail}); run val.py again and compare with that") from error
