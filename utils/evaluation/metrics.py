"""Precision, recall and average precision of a detector over a data set."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from utils.distributed import World
from utils.evaluation.matching import GroundTruth, match_predictions
from utils.nms import Detections

Floats = NDArray[np.float64]

IOU_THRESHOLDS = torch.linspace(0.5, 0.95, 10)
"""0.50, 0.55, ..., 0.95: the thresholds mAP is averaged over, as in COCO."""

_EPS = 1e-16
SMOOTHING = 0.1
"""Width of the box filter over the mean F1 curve, as a fraction of the confidence axis."""


@dataclass(frozen=True)
class ClassCurves:
    """Results of each class that has labels, and the curves behind them at IoU 0.5.

    The c classes are in ascending order of `classes`. Precision, recall and F1 are read at one confidence common to
    all classes, where the smoothed mean F1 is best.

    Attributes:
        classes: (c,) int64 class index.
        instances: (c,) int64 labels of the class.
        tp: (c,) true positives at the common confidence.
        fp: (c,) false positives there.
        precision: (c,)
        recall: (c,)
        f1: (c,)
        ap: (c, k) average precision at each IoU threshold.
        px: (1000,) 0 to 1, the confidence, or for `pr_curve` the recall.
        p_curve: (c, 1000) precision over confidence.
        r_curve: (c, 1000) recall over confidence.
        f1_curve: (c, 1000) F1 over confidence.
        pr_curve: (c, 1000) precision over recall, never rising.
    """

    classes: NDArray[np.int64]
    instances: NDArray[np.int64]
    tp: Floats
    fp: Floats
    precision: Floats
    recall: Floats
    f1: Floats
    ap: Floats
    px: Floats
    p_curve: Floats
    r_curve: Floats
    f1_curve: Floats
    pr_curve: Floats


def average_precision(
    tp: NDArray[np.bool_], conf: NDArray[Any], pred_cls: NDArray[Any], target_cls: NDArray[Any]
) -> ClassCurves:
    """Precision, recall and AP of every class that occurs among the labels.

    AP is the area under the precision-recall curve, made non-increasing and read at 101 recalls (COCO).

    Args:
        tp: (n, k) whether a detection is a true positive at each of k IoU thresholds, the first being 0.5.
        conf: (n,) confidence.
        pred_cls: (n,) class of the detections.
        target_cls: (m,) class of the labels.
    """
    order = np.argsort(-conf, kind="stable")
    tp, conf, pred_cls = tp[order], conf[order].astype(np.float64), pred_cls[order]
    classes, instances = np.unique(target_cls.astype(np.int64), return_counts=True)
    c, k = len(classes), tp.shape[1]
    px = np.linspace(0, 1, 1000)
    ap = np.zeros((c, k))
    p_curve, r_curve, pr_curve = (np.zeros((c, len(px))) for _ in range(3))
    for row, (cls, labels) in enumerate(zip(classes, instances, strict=True)):
        mine = pred_cls == cls
        if not mine.any():
            continue
        hits = tp[mine].cumsum(0)  # (predictions, k)
        recall = hits / (labels + _EPS)
        precision = hits / np.arange(1, len(hits) + 1)[:, None]
        # np.interp wants rising abscissae; above the highest confidence nothing is predicted.
        r_curve[row] = np.interp(-px, -conf[mine], recall[:, 0], left=0)
        p_curve[row] = np.interp(-px, -conf[mine], precision[:, 0], left=1)
        for j in range(k):
            ap[row, j] = _area(*_envelope(recall[:, j], precision[:, j]))
        pr_curve[row] = np.interp(px, *_envelope(recall[:, 0], precision[:, 0]))
    f1_curve = 2 * p_curve * r_curve / (p_curve + r_curve + _EPS)
    best = int(smooth(f1_curve.mean(0), SMOOTHING).argmax()) if c else 0
    precision, recall, f1 = p_curve[:, best], r_curve[:, best], f1_curve[:, best]
    true_positives = (recall * instances).round()
    false_positives = (true_positives / (precision + _EPS) - true_positives).round()
    return ClassCurves(
        classes=classes,
        instances=instances,
        tp=true_positives,
        fp=false_positives,
        precision=precision,
        recall=recall,
        f1=f1,
        ap=ap,
        px=px,
        p_curve=p_curve,
        r_curve=r_curve,
        f1_curve=f1_curve,
        pr_curve=pr_curve,
    )


def _envelope(recall: Floats, precision: Floats) -> tuple[Floats, Floats]:
    """The curve from recall 0 to 1, with each precision raised to the best at that recall or beyond."""
    x = np.concatenate(([0.0], recall, [1.0]))
    y = np.concatenate(([1.0], precision, [0.0]))
    return x, np.maximum.accumulate(y[::-1])[::-1]


def _area(recall: Floats, precision: Floats) -> float:
    """Trapezoidal integral over 101 recalls."""
    x = np.linspace(0, 1, 101)
    y = np.interp(x, recall, precision)
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum())


def smooth(curve: Floats, fraction: float) -> Floats:
    """A curve averaged over a sliding window; the ends are continued by their last value.

    Args:
        curve: (n,)
        fraction: Width of the window as a fraction of n; made odd.

    Returns:
        (n,)
    """
    half = round(len(curve) * fraction * 2) // 2 // 2
    width = 2 * half + 1
    return np.convolve(np.pad(curve, half, mode="edge"), np.full(width, 1 / width), mode="valid")


@dataclass(frozen=True)
class ClassMetrics:
    """Results of one class; precision and recall at the confidence where the mean F1 is best.

    Attributes:
        index: Class index.
        name: Class name.
        images: Images with a label of the class.
        instances: Labels of the class.
        precision: 0 to 1.
        recall: 0 to 1.
        map50: AP at IoU 0.5.
        map: AP averaged over IoU 0.5 to 0.95.
    """

    index: int
    name: str
    images: int
    instances: int
    precision: float
    recall: float
    map50: float
    map: float


@dataclass(frozen=True)
class Metrics:
    """Results over a data set: unweighted means over the classes that have labels; zeros if there are none.

    Attributes:
        precision: 0 to 1.
        recall: 0 to 1.
        map50: AP at IoU 0.5.
        map: AP averaged over IoU 0.5 to 0.95.
        images: Images evaluated.
        instances: Labels in them.
        per_class: The classes that have labels, by index.
        curves: What the results were read from, for plots.
    """

    precision: float = 0.0
    recall: float = 0.0
    map50: float = 0.0
    map: float = 0.0
    images: int = 0
    instances: int = 0
    per_class: list[ClassMetrics] = field(default_factory=list)
    curves: ClassCurves | None = field(default=None, repr=False, compare=False)

    @property
    def fitness(self) -> float:
        """The one number by which checkpoints are ranked: 0.1 mAP50 + 0.9 mAP50-95."""
        return 0.1 * self.map50 + 0.9 * self.map

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON or YAML, without the curves."""
        names = ("precision", "recall", "map50", "map", "images", "instances")
        return {name: getattr(self, name) for name in names} | {"per_class": [asdict(c) for c in self.per_class]}


class _ImageResult(NamedTuple):
    tp: NDArray[np.bool_]
    conf: Floats
    pred_cls: NDArray[np.int64]
    target_cls: NDArray[np.int64]


_NO_CLASSES = np.zeros(0, dtype=np.int64)
_NOTHING = _ImageResult(np.zeros((0, len(IOU_THRESHOLDS)), dtype=bool), np.zeros(0), _NO_CLASSES, _NO_CLASSES)


class DetectionMetrics:
    """Collects detections and labels image by image, and summarises them as `Metrics`."""

    def __init__(self, names: dict[int, str]) -> None:
        """Start empty.

        Args:
            names: Class index -> name.
        """
        self.names = names
        self._images: list[_ImageResult] = []

    def update(self, detections: Detections, labels: GroundTruth) -> None:
        """Add one image.

        Args:
            detections: Boxes in pixels of the original image, most confident first.
            labels: Boxes in the same pixels.
        """
        thresholds = IOU_THRESHOLDS.to(detections.xyxy.device)
        tp = match_predictions(detections, labels.cls, labels.xyxy, thresholds).cpu().numpy()
        conf, pred_cls = detections.conf.double().cpu().numpy(), detections.cls.cpu().numpy()
        self._images.append(_ImageResult(tp, conf, pred_cls, labels.cls.long().cpu().numpy()))

    def gather(self, world: World, batch_sizes: Sequence[int]) -> None:
        """Take in what the other processes collected, in the order in which a single one would have done it.

        Args:
            world: Process r evaluated the images r, r + size, r + 2 * size, ... of every batch.
            batch_sizes: Images of each batch that this process evaluated.
        """
        images = iter(self._images)
        own = [list(itertools.islice(images, size)) for size in batch_sizes]
        batches = itertools.zip_longest(*world.gathered(own), fillvalue=[])
        rounds = itertools.chain.from_iterable(itertools.zip_longest(*parts) for parts in batches)
        self._images = [image for parts in rounds for image in parts if image is not None]

    def compute(self) -> Metrics:
        """The results over all images added so far."""
        images = len(self._images)
        tp, conf, pred_cls, target_cls = (
            np.concatenate([empty, *parts])
            for empty, parts in zip(_NOTHING, zip(*self._images, strict=True) if images else [()] * 4, strict=True)
        )
        if len(target_cls) == 0:
            return Metrics(images=images)
        curves = average_precision(tp, conf, pred_cls, target_cls)
        images_with = np.bincount(np.concatenate([np.unique(image.target_cls) for image in self._images]))
        per_class = [
            ClassMetrics(
                index=int(cls),
                name=self.names.get(int(cls), f"class{cls}"),
                images=int(images_with[cls]),
                instances=int(curves.instances[i]),
                precision=float(curves.precision[i]),
                recall=float(curves.recall[i]),
                map50=float(curves.ap[i, 0]),
                map=float(curves.ap[i].mean()),
            )
            for i, cls in enumerate(curves.classes)
        ]
        return Metrics(
            precision=float(curves.precision.mean()),
            recall=float(curves.recall.mean()),
            map50=float(curves.ap[:, 0].mean()),
            map=float(curves.ap.mean()),
            images=images,
            instances=len(target_cls),
            per_class=per_class,
            curves=curves,
        )
