"""COCO's own numbering of classes, and the numbers of its official evaluation."""

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.distributed import World
from utils.evaluation.annotations import Annotations, Id, TrueObject
from utils.evaluation.matching import GroundTruth
from utils.nms import Detections

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]

_SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}  # square pixels, both ends included

_UNUSED_IDS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
_CATEGORY_IDS = tuple(index for index in range(1, 91) if index not in _UNUSED_IDS)
_CLASS_NAMES = tuple(
    """person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,
bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,
snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,
knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,
dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,
vase,scissors,teddy bear,hair drier,toothbrush""".replace("\n", "").split(",")
)


def is_coco(names: dict[int, str], stems: Iterable[str]) -> bool:
    """Whether a data set is COCO or a part of it: its 80 class names in order, and images named by number.

    Args:
        names: Class index -> name.
        stems: Image file names without suffix.
    """
    return tuple(names.values()) == _CLASS_NAMES and all(stem.isascii() and stem.isdigit() for stem in stems)


def category_ids(names: dict[int, str], *, coco: bool) -> list[Id]:
    """Class index -> `category_id` of the results file: COCO's ids, which have gaps, else the index itself."""
    return list(_CATEGORY_IDS) if coco else list(range(len(names)))


@dataclass(frozen=True)
class CocoNumbers:
    """The twelve numbers of COCO, by their names there; None where there is no object to average over.

    https://cocodataset.org/#detection-eval

    Attributes:
        AP: Average precision with at most 100 detections an image, mean over IoU 0.50 to 0.95.
        AP50: At IoU 0.50.
        AP75: At IoU 0.75.
        APs: Of small objects, up to 32 x 32 pixels of area.
        APm: Of medium ones, up to 96 x 96.
        APl: Of large ones.
        AR1: Recall with one detection an image and class, mean over IoU 0.50 to 0.95.
        AR10: With ten.
        AR100: With a hundred.
        ARs: With a hundred, of small objects.
        ARm: Of medium ones.
        ARl: Of large ones.
    """

    AP: float | None = None
    AP50: float | None = None
    AP75: float | None = None
    APs: float | None = None
    APm: float | None = None
    APl: float | None = None
    AR1: float | None = None
    AR10: float | None = None
    AR100: float | None = None
    ARs: float | None = None
    ARm: float | None = None
    ARl: float | None = None


COCO_NAMES = tuple(number.name for number in fields(CocoNumbers))
"""AP, AP50, ..., in the order in which COCO prints them."""


@dataclass(frozen=True, kw_only=True)
class CocoClassMetrics(CocoNumbers):
    """The numbers of one class.

    Attributes:
        index: Class index.
        name: Class name.
    """

    index: int
    name: str


@dataclass(frozen=True, kw_only=True)
class CocoMetrics(CocoNumbers):
    """The numbers of a data set: means over the classes.

    Attributes:
        truth: What the detections were compared with: the name of the file of official annotations, or "labels".
        labels: Objects that are "small", "medium" and "large"; crowds do not count.
        per_class: Every class, also one without objects.
    """

    truth: str
    labels: dict[str, int]
    per_class: list[CocoClassMetrics] = field(repr=False)

    def __str__(self) -> str:
        numbers = ((name, getattr(self, name)) for name in COCO_NAMES)
        return ", ".join(f"{name} {'-' if value is None else f'{value:.3f}'}" for name, value in numbers)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON or YAML."""
        return {"rule": "coco", "truth": self.truth} | asdict(self)


def coco_results(detections: Detections) -> tuple[Floats, Floats]:
    """Boxes and scores as a results file of COCO has them, rounded so that numbers do not depend on the way there.

    Returns:
        (n, 4) left, top, width, height in pixels with 3 decimals; (n,) confidence with 5.
    """
    xyxy = detections.xyxy.double().numpy()
    xywh = np.concatenate((xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]), axis=1)
    return xywh.round(3), detections.conf.double().numpy().round(5)


class _Image(NamedTuple):
    order: tuple[bool, Id]
    truth: list[TrueObject]
    results: Floats  # (n, 6) left, top, width, height, score, class


class CocoEvaluator:
    """Collects detections and ground truth image by image, and evaluates them by COCO's rule."""

    def __init__(self, names: dict[int, str], annotations: Annotations | None = None) -> None:
        """Start empty.

        Args:
            names: Class index -> name.
            annotations: The ground truth; the labels if there are none.
        """
        self.names = names
        self.annotations = annotations
        self._images: list[_Image] = []

    def update(self, path: Path, detections: Detections, labels: GroundTruth) -> None:
        """Add one image.

        Args:
            path: Its file.
            detections: Boxes in pixels of the original image, most confident first, in main memory.
            labels: Boxes in the same pixels; not looked at where there are annotations.
        """
        if self.annotations is None:
            name: Id = str(path)
            truth = _objects(labels)
        else:
            name = self.annotations.image_ids[path]
            truth = self.annotations.objects[path]
        results = np.column_stack((*coco_results(detections), detections.cls.numpy()))
        self._images.append(_Image((isinstance(name, str), name), truth, results))

    def gather(self, world: World) -> None:
        """Take in what the other processes collected."""
        self._images = [image for images in world.gathered(self._images) for image in images]

    def compute(self) -> CocoMetrics | None:
        """The numbers of all images added so far; None, and a line in the log, where the library is missing."""
        try:
            from hotcoco import COCO, COCOeval
        except ImportError as error:
            logger.warning("no COCO numbers: %s; pip install hotcoco", error)
            return None
        images = sorted(self._images, key=lambda image: image.order)  # equal scores rank in the order of images
        objects = [(number, *found) for number, image in enumerate(images) for found in image.truth]
        truth = COCO(
            {
                "images": [{"id": number} for number in range(len(images))],
                "categories": [{"id": index, "name": name} for index, name in self.names.items()],
                "annotations": [
                    {
                        "id": id_,
                        "image_id": image,
                        "category_id": cls,
                        "bbox": xywh,
                        "area": area,
                        "iscrowd": int(crowd),
                    }
                    for id_, (image, cls, xywh, area, crowd) in enumerate(objects, start=1)
                ],
            }
        )
        rows = [np.insert(image.results, 0, number, axis=1) for number, image in enumerate(images)]
        evaluation = COCOeval(truth, truth.loadRes(np.concatenate([np.zeros((0, 7)), *rows])), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        curves = evaluation.eval
        assert curves is not None
        precision, recall = np.asarray(curves["precision"])[..., -1], np.asarray(curves["recall"])
        return CocoMetrics(
            **_numbers(precision, recall),
            truth=self.annotations.file.name if self.annotations else "labels",
            labels={
                size: sum(low <= area <= high and not crowd for *_, area, crowd in objects)
                for size, (low, high) in _SIZES.items()
            },
            per_class=[
                CocoClassMetrics(**_numbers(precision[:, :, [k]], recall[:, [k]]), index=index, name=name)
                for k, (index, name) in enumerate(sorted(self.names.items()))
            ],
        )


def _objects(labels: GroundTruth) -> list[TrueObject]:
    x1, y1, x2, y2 = labels.xyxy.double().unbind(1)
    boxes = zip(labels.cls.tolist(), *(values.tolist() for values in (x1, y1, x2 - x1, y2 - y1)), strict=True)
    return [TrueObject(cls, (x, y, w, h), w * h) for cls, x, y, w, h in boxes]


def _numbers(precision: Floats, recall: Floats) -> dict[str, float | None]:
    """What COCO prints of its curves.

    Args:
        precision: (10, 101, classes, 4) by IoU, recall and size of objects (all, small, medium, large).
        recall: (10, classes, 4, 3) by IoU, size of objects and most detections of an image (1, 10, 100).
    """
    sizes = {"": 0, "s": 1, "m": 2, "l": 3}
    values = {f"AP{size}": precision[..., a] for size, a in sizes.items()}
    values |= {"AP50": precision[0, ..., 0], "AP75": precision[5, ..., 0]}
    values |= {f"AR{most}": recall[:, :, 0, m] for m, most in enumerate((1, 10, 100))}
    values |= {f"AR{size}": recall[:, :, a, -1] for size, a in sizes.items() if size}
    return {name: _mean(value) for name, value in values.items()}


def _mean(values: Floats) -> float | None:
    measured = values[values > -1]  # -1 stands for a class without objects
    return float(measured.mean()) if len(measured) else None
