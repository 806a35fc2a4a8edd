"""Time of non-maximum suppression against the plain way with torchvision's `batched_nms`.

python -m benchmarks.bench_nms --out benchmarks/results/nms.csv

Predictions are crowded: about 20 boxes for an object. Corners are whole pixels and no two scores are equal, so that
the two must agree exactly, which is checked first. "detect" has its thresholds and one class a box, "val" a very low
threshold and several classes a box.
"""

import sys
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from benchmarks.measure import MeasureOptions, Report, alternate
from utils.cli import run_command
from utils.config import option, parse_options
from utils.nms import Detections, non_max_suppression

_TASKS: dict[str, tuple[float, float, bool]] = {"detect": (0.25, 0.45, False), "val": (0.001, 0.6, True)}
"""Confidence threshold, IoU threshold, whether a box may have several classes."""
_MAX_DET = 300
_SHOWN = ("provider", "task", "candidates", "kept", "total_ms", "total_p20_ms", "total_p80_ms", "speedup")


@dataclass(frozen=True)
class NmsOptions(MeasureOptions):
    """Options of this benchmark."""

    candidates: tuple[int, ...] = option((100, 1000, 10_000, 30_000), "boxes with a class above the threshold", least=2)
    nc: int = option(80, "number of classes", least=2)


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse_options(NmsOptions, argv, prog="bench_nms", description=__doc__ or "")
    device = options.start()
    report = Report(options.out, device, _SHOWN)
    for task, (conf, iou, several) in _TASKS.items():
        for candidates in options.candidates:
            decoded = predictions(candidates // (1 + several), options.nc, conf).to(device)
            plain = partial(baseline, decoded, conf, iou, several)
            ours = partial(
                non_max_suppression, decoded, conf_thres=conf, iou_thres=iou, multi_label=several, max_det=_MAX_DET
            )
            expected, [found] = plain(), ours()
            for name in ("xyxy", "conf", "cls"):
                torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0)
            timings = alternate({"baseline": plain, "project": ours}, options.repeats, device)
            for name, timing in timings.items():
                known = {"provider": name, "task": task, "candidates": candidates, "classes": options.nc}
                ratio = timings["baseline"].median / timing.median
                known |= {"kept": len(found), **timing.columns("total"), "speedup": ratio, "repeats": options.repeats}
                report.add(known)


def predictions(count: int, nc: int, conf: float) -> Tensor:
    """(1, count, 5 + nc) decoded predictions, all with a first class of probability 1 and a second one of a half."""
    rng = torch.Generator().manual_seed(0)
    objects = torch.randint(20, 620, (count // 20 + 1, 2), generator=rng)
    owner = torch.randint(len(objects), (count,), generator=rng)
    centre = objects[owner] + torch.randint(-8, 9, (count, 2), generator=rng)
    side = 2 * torch.randint(15, 25, (count, 2), generator=rng)
    rank = torch.randperm(count, generator=rng)[:, None]
    objectness = 2.1 * conf + (0.99 - 2.1 * conf) * (rank + 0.5) / count  # half of it is above the threshold, too
    first = torch.randint(nc, (len(objects),), generator=rng)[owner]
    classes = torch.zeros(count, nc).scatter_(1, first[:, None], 1.0).scatter_(1, (first[:, None] + 1) % nc, 0.5)
    return torch.cat((centre, side, objectness, classes), dim=1)[None]


def baseline(decoded: Tensor, conf: float, iou: float, several: bool) -> Detections:
    """The plain way, for one image."""
    rows = decoded[0]
    scores = rows[:, 5:] * rows[:, 4:5]
    if several:
        row, cls = torch.where(scores > conf)
    else:
        row = torch.where(scores.amax(1) > conf)[0]
        cls = scores[row].argmax(1)
    boxes, kept_scores = box_convert(rows[row, :4], "cxcywh", "xyxy"), scores[row, cls]
    keep = batched_nms(boxes, kept_scores, cls, iou)[:_MAX_DET]
    return Detections(boxes[keep], kept_scores[keep], cls[keep])


if __name__ == "__main__":
    sys.exit(run_command(main))
