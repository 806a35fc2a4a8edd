"""The one evaluation loop: val.py measures a finished model with it, train.py the model of every epoch."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from utils.boxes import cxcywh_to_xyxy, unletterbox
from utils.data.loader import Batch, ImageShape
from utils.device import synchronize
from utils.distributed import ALONE, World
from utils.evaluation.coco import CocoEvaluator, CocoMetrics
from utils.evaluation.confusion import ConfusionMatrix
from utils.evaluation.consumers import BatchPictures, BatchResult, Consumer, ImageResult
from utils.evaluation.hybrid import with_labels
from utils.evaluation.matching import GroundTruth
from utils.evaluation.metrics import DetectionMetrics, Metrics
from utils.nms import Detections, non_max_suppression

logger = logging.getLogger(__name__)

LOSS_NAMES = ("box", "obj", "cls")
HEADER = ("%22s" + "%11s" * 6) % ("Class", "Images", "Instances", "P", "R", "mAP50", "mAP50-95")


class Detector(Protocol):
    """What the loop needs of a model, besides being an `nn.Module`."""

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Raw predictions of images in 0..1."""

    def decode(self, raw: list[Tensor]) -> Tensor:
        """(B, P, 5 + nc) boxes in pixels and probabilities."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """The weights; the first tells the device."""

    def modules(self) -> Iterator[nn.Module]:
        """All layers."""

    def eval(self) -> Any:
        """Switch to inference."""


class Loss(Protocol):
    """The training loss, to be reported over the evaluated images."""

    def __call__(self, raw: list[Tensor], targets: Tensor, *, counts: bool) -> dict[str, Tensor]:
        """0-d tensors "box", "obj" and "cls"; zero if these images do not count."""


class Loader(Protocol):
    """Batches with a known number."""

    def __iter__(self) -> Iterator[Batch]:
        """One pass."""

    def __len__(self) -> int:
        """Number of batches."""


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation.

    Attributes:
        metrics: Precision, recall, mAP by YOLOv5's rule.
        losses: "box", "obj", "cls", means over the batches; zeros without a loss.
        speed_ms: "pre", "inference", "nms", milliseconds per image.
        confusion: The confusion matrix, if plots were asked for.
        coco: The numbers by COCO's rule, if they were asked for, in the process that writes files.
    """

    metrics: Metrics
    losses: dict[str, float]
    speed_ms: dict[str, float]
    confusion: ConfusionMatrix | None = field(default=None, repr=False)
    coco: CocoMetrics | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for metrics.json."""
        coco = self.coco.to_dict() if self.coco else None
        return {"rule": "yolov5"} | self.metrics.to_dict() | {"coco": coco, "speed_ms": self.speed_ms}


def evaluate(
    model: Detector,
    loader: Loader,
    names: dict[int, str],
    *,
    conf_thres: float = 0.001,
    iou_thres: float = 0.6,
    max_det: int = 300,
    single_cls: bool = False,
    hybrid: bool = False,
    amp: torch.dtype = torch.float32,
    loss: Loss | None = None,
    save_dir: Path | None = None,
    plots: bool = False,
    consumers: Sequence[Consumer] = (),
    coco: CocoEvaluator | None = None,
    verbose: bool = False,
    progress: bool = True,
    world: World = ALONE,
) -> Evaluation:
    """Run a model over a data set and measure it; the model comes back as it was.

    Args:
        model: On its device; switched to eval mode meanwhile.
        loader: Batches without augmentation.
        names: Class index -> name.
        conf_thres: Detections at or below it are dropped; above 0.001 the AP is cut short.
        iou_thres: IoU of the non-maximum suppression.
        max_det: Most detections of an image.
        single_cls: Take every detection for class 0 and suppress across classes.
        hybrid: Add the labels to the predictions, fully confident, before the suppression; metrics mean nothing then.
        amp: Type that autocast computes in; the weights stay as they are.
        loss: Also report this loss.
        save_dir: Where plots go.
        plots: Draw curves, the confusion matrix and the first batches.
        consumers: Take the detections of every batch, for example `TextWriter`.
        coco: Also measure by COCO's rule.
        verbose: Log a row for each class.
        progress: Show a progress bar.
        world: The processes that share the work: `loader` gives this one's part of every batch, see
            `DetectionMetrics.gather`. All of them get the result, but plots and consumers see only that part.

    Raises:
        ValueError: If plots are asked for without `save_dir`.
    """
    if plots and save_dir is None:
        raise ValueError("plots need save_dir")
    device = next(model.parameters()).device
    clock = _StageClock(device)
    metrics, confusion = DetectionMetrics(names), ConfusionMatrix(len(names)) if plots else None
    if plots and save_dir is not None:
        consumers = [*consumers, BatchPictures(save_dir, names)]
    loss_sums, batch_sizes = torch.zeros(len(LOSS_NAMES), device=device), []
    autocast = torch.autocast(device.type, amp, enabled=amp != torch.float32)
    silent = not (progress and world.is_main)
    bar = tqdm(loader, desc=HEADER, total=len(loader), disable=silent, bar_format="{l_bar}{bar:10}{r_bar}")
    with _eval_mode(model), torch.no_grad():
        for batch in bar:
            with clock.stage("pre"):
                images = batch.images.to(device, non_blocking=True).float() / 255
            with clock.stage("inference"):
                with autocast:
                    raw = model(images)
                raw = [level.float() for level in raw]  # float16 pixels beyond 1024 would be whole numbers
                decoded = model.decode(raw)
            if loss is not None:
                losses = loss(raw, batch.targets, counts=not batch.filler)
                loss_sums += torch.stack([losses[name].detach() for name in LOSS_NAMES])
            if batch.filler:
                batch_sizes.append(0)
                continue
            with clock.stage("nms"):
                if hybrid:
                    decoded = with_labels(decoded, batch.targets, (images.shape[2], images.shape[3]))
                detections = non_max_suppression(
                    decoded,
                    conf_thres=conf_thres,
                    iou_thres=iou_thres,
                    agnostic=single_cls,
                    multi_label=True,
                    max_det=max_det,
                )
            result = _batch_result(batch, [_on_cpu(found, single_cls) for found in detections])
            batch_sizes.append(len(result.images))
            for image in result.images:
                metrics.update(image.detections, image.labels)
                if confusion is not None:
                    confusion.update(image.detections, image.labels)
                if coco is not None:
                    coco.update(image.path, image.detections, image.labels)
            for consumer in consumers:
                consumer.update(result)
    for consumer in consumers:
        consumer.finish()
    metrics.gather(world, batch_sizes)
    mean_losses = world.total(loss_sums) / world.size / max(len(batch_sizes), 1)
    measured, measured_coco = metrics.compute(), None
    if coco is not None:
        coco.gather(world)
        measured_coco = coco.compute() if world.is_main else None
    if world.is_main:
        log_metrics(measured, verbose=verbose)
    if measured_coco is not None:
        log_rules(measured, measured_coco)
    if confusion is not None and save_dir is not None:
        from utils.show.curves import save_confusion_matrix, save_curves

        save_confusion_matrix(save_dir / "confusion_matrix.png", confusion.matrix, names)
        if measured.curves is not None and measured.curves.tp.any():
            save_curves(save_dir, measured.curves, names)
    return Evaluation(
        metrics=measured,
        losses=dict(zip(LOSS_NAMES, mean_losses.tolist(), strict=True)),
        speed_ms=clock.per_image_ms(sum(batch_sizes)),
        confusion=confusion,
        coco=measured_coco,
    )


def log_metrics(metrics: Metrics, *, verbose: bool = False) -> None:
    """Log the rows that belong below `HEADER`.

    Args:
        metrics: What to log.
        verbose: Add a row for each class, if there are several.
    """
    if metrics.instances == 0:
        logger.warning("no labels in the %d evaluated images: the metrics are all zero", metrics.images)
    rows: list[tuple[Any, ...]] = [
        ("all", metrics.images, metrics.instances, metrics.precision, metrics.recall, metrics.map50, metrics.map)
    ]
    if verbose and len(metrics.per_class) > 1:
        rows += [
            (c.name, metrics.images, c.instances, c.precision, c.recall, c.map50, c.map) for c in metrics.per_class
        ]
    for row in rows:
        logger.info("%s", ("%22s" + "%11i" * 2 + "%11.3g" * 4) % row)


def log_rules(metrics: Metrics, coco: CocoMetrics) -> None:
    """Log the results of both rules with their names, so that none is taken for the other."""
    values = (metrics.precision, metrics.recall, metrics.map50, metrics.map)
    logger.info("By YOLOv5's rule: P %.3f, R %.3f, mAP50 %.3f, mAP50-95 %.3f", *values)
    logger.info("By COCO's rule, against %s: %s", coco.truth, coco)


@contextmanager
def _eval_mode(model: Detector) -> Iterator[None]:
    """Eval mode for the duration; each layer returns to its own mode, as some may be frozen."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class _StageClock:
    """Adds up the time of named stages; the device's queue is drained at both ends, or it would count elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = {"pre": 0.0, "inference": 0.0, "nms": 0.0}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        synchronize(self.device)
        start = time.perf_counter()
        yield
        synchronize(self.device)
        self.seconds[name] += time.perf_counter() - start

    def per_image_ms(self, images: int) -> dict[str, float]:
        return {name: 1000 * seconds / max(images, 1) for name, seconds in self.seconds.items()}


def _on_cpu(detections: Detections, single_cls: bool) -> Detections:
    found = detections.cpu()
    return Detections(found.xyxy, found.conf, torch.zeros_like(found.cls)) if single_cls else found


def _batch_result(batch: Batch, detections: list[Detections]) -> BatchResult:
    """Add the view in original pixels, where detections and labels are compared."""
    h, w = batch.images.shape[-2:]
    size = torch.tensor((w, h, w, h), dtype=torch.float32)
    targets = batch.targets.cpu()
    images = []
    for index, (path, shape, boxes) in enumerate(zip(batch.paths, batch.shapes, detections, strict=True)):
        mine = targets[targets[:, 0] == index]
        labels = GroundTruth(_to_original(cxcywh_to_xyxy(mine[:, 2:6] * size), shape), mine[:, 1].long())
        found = Detections(_to_original(boxes.xyxy, shape), boxes.conf, boxes.cls)
        images.append(ImageResult(Path(path), shape.original, found, labels))
    return BatchResult(batch.images, targets, detections, images)


def _to_original(boxes_xyxy: Tensor, shape: ImageShape) -> Tensor:
    return unletterbox(boxes_xyxy, shape.original, shape.ratio, shape.pad)
