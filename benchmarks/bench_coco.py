"""Time of COCO's twelve numbers against pycocotools, the official implementation.

python -m benchmarks.bench_coco --out benchmarks/results/coco.csv

Images hold a few objects and many detections, some near an object and most of them elsewhere, as at confidence 0.001.
Both evaluate the same objects and results, and their numbers must agree to 1e-9, which is checked first. Collecting the
results image by image is part of the time, as in an evaluation.
"""

import contextlib
import io
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import MeasureOptions, Report, alternate
from utils.cli import run_command
from utils.config import option, parse_options
from utils.errors import UserError
from utils.evaluation.annotations import Annotations, Id, TrueObject
from utils.evaluation.coco import COCO_NAMES, CocoEvaluator, coco_results
from utils.evaluation.matching import GroundTruth
from utils.nms import Detections

_SIDE = 640
_TOLERANCE = 1e-9
_SHOWN = ("provider", "images", "detections", "total_ms", "total_p20_ms", "total_p80_ms", "speedup")

Found = dict[Path, Detections]


@dataclass(frozen=True)
class CocoOptions(MeasureOptions):
    """Options of this benchmark."""

    repeats: int = option(3, "timed runs", least=1)
    images: tuple[int, ...] = option((500,), "images of a data set", least=1)
    detections: int = option(300, "detections of an image", least=1)
    nc: int = option(80, "number of classes", least=1)


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark.

    Raises:
        UserError: If a library is missing, or the numbers differ.
    """
    options = parse_options(CocoOptions, argv, prog="bench_coco", description=__doc__ or "")
    device = options.start()
    report = Report(options.out, device, _SHOWN)
    for images in options.images:
        annotations, found = data_set(images, options.detections, options.nc)
        calls = {"pycocotools": partial(official, annotations, found), "project": partial(ours, annotations, found)}
        expected, numbers = (call() for call in calls.values())
        if not np.allclose(numbers, expected, rtol=0, atol=_TOLERANCE):
            raise UserError(f"{images} images: found {numbers}, expected pycocotools' {expected}")
        timings = alternate(calls, options.repeats, device)
        for name, timing in timings.items():
            known = {"provider": name, "images": images, "detections": options.detections, "classes": options.nc}
            ratio = timings["pycocotools"].median / timing.median
            report.add(known | {**timing.columns("total"), "speedup": ratio, "repeats": options.repeats})


def data_set(images: int, detections: int, nc: int) -> tuple[Annotations, Found]:
    """Objects of all sizes, one in fifty a crowd, and detections with scores in falling order."""
    random = np.random.default_rng(0)
    names = [Path(f"{number}.jpg") for number in range(images)]
    objects: dict[Path, list[TrueObject]] = {}
    found: Found = {}
    for name in names:
        count = int(random.integers(1, 15))
        corner, size = random.uniform(0, _SIDE / 2, (count, 2)), np.exp(random.uniform(2, 5.7, (count, 2)))
        xywh, cls = np.column_stack((corner, size)).round(2), random.integers(nc, size=count)
        objects[name] = [
            TrueObject(int(c), (x, y, w, h), w * h * 0.8, crowd=bool(random.random() < 0.02))
            for c, (x, y, w, h) in zip(cls, xywh.tolist(), strict=True)
        ]
        near = random.integers(count, size=detections)
        moved = xywh[near] + random.normal(0, 0.15, (detections, 4)) * xywh[near][:, [2, 3, 2, 3]]
        moved[:, 2:] = np.abs(moved[:, 2:]) + 1
        elsewhere = random.random(detections) < 0.9
        moved[elsewhere, :2] = random.uniform(0, _SIDE / 2, (int(elsewhere.sum()), 2))
        found[name] = Detections(
            torch.tensor(np.concatenate((moved[:, :2], moved[:, :2] + moved[:, 2:]), 1), dtype=torch.float32),
            torch.tensor(np.sort(random.random(detections))[::-1].copy(), dtype=torch.float32),
            torch.tensor(np.where(random.random(detections) < 0.5, cls[near], random.integers(nc, size=detections))),
        )
    image_ids: dict[Path, Id] = {name: number for number, name in enumerate(names)}
    return Annotations(Path("drawn.json"), list(range(nc)), image_ids, objects), found


def ours(annotations: Annotations, found: Found) -> list[float]:
    """The numbers as val.py gets them.

    Raises:
        UserError: If hotcoco is missing.
    """
    nothing = GroundTruth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    evaluator = CocoEvaluator({cls: str(cls) for cls in range(len(annotations.category_ids))}, annotations)
    for name, detections in found.items():
        evaluator.update(name, detections, nothing)
    metrics = evaluator.compute()
    if metrics is None:
        raise UserError("hotcoco is missing, see requirements.txt; pip install hotcoco")
    return [-1 if (number := getattr(metrics, name)) is None else number for name in COCO_NAMES]


def official(annotations: Annotations, found: Found) -> list[float]:
    """The numbers by pycocotools.

    Raises:
        UserError: If it is missing.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise UserError(f"{error}: what this benchmark compares with; pip install pycocotools") from error
    ids = annotations.image_ids
    objects = [(ids[name], true) for name, image in annotations.objects.items() for true in image]
    rows = [
        {"image_id": ids[name], "category_id": int(cls), "bbox": xywh, "score": score}
        for name, image in found.items()
        for xywh, score, cls in zip(*(values.tolist() for values in (*coco_results(image), image.cls)), strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": id_} for id_ in ids.values()],
            "categories": [{"id": cls} for cls in range(len(annotations.category_ids))],
            "annotations": [
                {
                    "id": number,
                    "image_id": image,
                    "category_id": true.cls,
                    "bbox": list(true.xywh),
                    "area": true.area,
                    "iscrowd": int(true.crowd),
                }
                for number, (image, true) in enumerate(objects, start=1)
            ],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


if __name__ == "__main__":
    sys.exit(run_command(main))
