"""What detect.py records of the detections themselves: label files, crops and a table."""

import csv
import re
from collections.abc import Mapping
from pathlib import Path

from utils.boxes import xyxy_to_cxcywh
from utils.data.images import Image
from utils.data.sources import Frame
from utils.files import write_text
from utils.nms import Detections
from utils.show.pictures import UniqueNames, write_image

_CROP_GROWTH, _CROP_MARGIN = 1.02, 10
"""Factor and pixels by which a crop is larger than its box, as in YOLOv5."""


class LabelWriter:
    """Writes one text file for each frame with detections, one row each, least confident first as in YOLOv5.

    `detection_rows` describes the rows.

    Args:
        directory: Existing folder.
        confidence: Append the confidence to each row.
        corners: Write corners instead of centre and size.
    """

    def __init__(self, directory: Path, *, confidence: bool = False, corners: bool = False) -> None:
        self._directory = directory
        self._confidence = confidence
        self._corners = corners
        self._names = UniqueNames()
        self.count = 0

    def write(self, frame: Frame, detections: Detections) -> None:
        """Write `<stem>.txt`, for a frame of a video `<stem>_<number>.txt`; nothing without detections."""
        path = self._directory / self._names.reserve(f"{frame.stem}.txt")
        if len(detections) == 0:
            path.unlink(missing_ok=True)  # of an earlier run, with --exist-ok
            return
        rows = detection_rows(detections, frame.image.shape[:2], confidence=self._confidence, corners=self._corners)
        write_text(path, "".join(reversed(rows)))
        self.count += 1


class CropWriter:
    """Cuts each detection out of the picture, into one folder for each class.

    Args:
        directory: Folder, made when needed; crops are `<class>/<stem>.jpg`, `<stem>-2.jpg`, ...
        names: Class index to name; what cannot be in a folder's name becomes an underscore.
    """

    def __init__(self, directory: Path, names: Mapping[int, str]) -> None:
        folders = UniqueNames()
        self._folders = {cls: directory / folders.reserve(safe_name(name)) for cls, name in names.items()}
        self._names = {cls: UniqueNames() for cls in names}

    def write(self, frame: Frame, detections: Detections) -> None:
        """Write every detection, least confident first, a little larger than its box.

        Raises:
            UserError: If OpenCV cannot encode it.
        """
        for box, cls in zip(reversed(detections.xyxy.tolist()), reversed(detections.cls.tolist()), strict=True):
            self._folders[cls].mkdir(parents=True, exist_ok=True)
            path = self._folders[cls] / self._names[cls].reserve(f"{frame.stem}.jpg")
            write_image(path, _crop(frame.image, box))


class CsvWriter:
    """Writes one table row for each detection: file name, class name and confidence with two decimals.

    Args:
        path: File, replaced if it exists.
        names: Class index to name.
    """

    def __init__(self, path: Path, names: Mapping[int, str]) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._rows.writerow(("Image Name", "Prediction", "Confidence"))
        self._names = names

    def write(self, frame: Frame, detections: Detections) -> None:
        """Append the detections, least confident first."""
        for conf, cls in zip(reversed(detections.conf.tolist()), reversed(detections.cls.tolist()), strict=True):
            self._rows.writerow((frame.path.name, self._names[cls], f"{conf:.2f}"))

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


def detection_rows(
    detections: Detections, shape: tuple[int, int], *, confidence: bool = False, corners: bool = False
) -> list[str]:
    """Detections as rows of a YOLO text file, in their order: `class cx cy w h`, six significant digits.

    Args:
        detections: Boxes in pixels of the picture.
        shape: (h, w) of the picture; coordinates become fractions of it.
        confidence: Append the confidence to each row.
        corners: Write `class x1 y1 x2 y2` instead, fractions too.

    Returns:
        One line each, with its line break.
    """
    h, w = shape
    boxes = detections.xyxy.double()  # rounds once only, to the digits of the text
    boxes = (boxes if corners else xyxy_to_cxcywh(boxes)) / boxes.new_tensor((w, h, w, h))
    rows = []
    for box, conf, cls in zip(boxes.tolist(), detections.conf.tolist(), detections.cls.tolist(), strict=True):
        values = [cls, *box, conf] if confidence else [cls, *box]
        rows.append(" ".join(f"{value:g}" for value in values) + "\n")
    return rows


def safe_name(name: str) -> str:
    """A class name as the name of one folder: no separators, no parent folder, nothing a file system refuses."""
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", name).strip(" .")[:60] or "_"


def _crop(image: Image, box: list[float]) -> Image:
    """The part of an image in a box (x1, y1, x2, y2 in pixels) and a little around it, never empty."""
    h, w = image.shape[:2]
    x1, y1, x2, y2 = box
    half_w, half_h = ((side * _CROP_GROWTH + _CROP_MARGIN) / 2 for side in (x2 - x1, y2 - y1))
    centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2
    left, top = max(0, int(centre_x - half_w)), max(0, int(centre_y - half_h))
    return image[top : min(h, int(centre_y + half_h)), left : min(w, int(centre_x + half_w))]
