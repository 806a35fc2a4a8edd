"""Measure a detector on a data set: precision, recall, mAP, speed, plots and predictions.

python val.py --weights runs/train/exp/weights/best.pt --data data/shapes.yaml
"""

import json
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import torch

from models import Model, load_model
from utils.cli import run_command
from utils.config import option, parse_options
from utils.data.annotated import AnnotatedImages
from utils.data.config import DatasetConfig, Split, load_dataset_config
from utils.data.images import MAX_SIDE
from utils.data.labels import label_path_of
from utils.data.loader import DetectionLoader, make_loader
from utils.data.scan import Sample, scan_samples
from utils.device import describe_device, select_device
from utils.errors import UserError
from utils.evaluation.coco import category_ids, coco_statistics, is_coco
from utils.evaluation.consumers import CocoJsonWriter, TextWriter
from utils.evaluation.evaluate import Evaluation, evaluate
from utils.files import write_text
from utils.show.results import check_project, make_results_directory

logger = logging.getLogger(__name__)

CLASS_ROWS = 50
"""With fewer classes than this each one gets a row, even without --verbose."""

REFUSED = {
    "--augment": "test-time augmentation is not implemented; evaluate at a larger --imgsz instead",
    "--save-hybrid": "labels mixed into predictions make the metrics meaningless; use --save-txt",
    "--dnn": "only .pt files are evaluated; give one with --weights",
}


@dataclass(frozen=True)
class ValOptions:
    """Options of val.py; the flags are those of YOLOv5."""

    data: str = option("data/shapes.yaml", "data set YAML")
    weights: tuple[str, ...] = option((), "the .pt file to evaluate")
    batch_size: int = option(32, "images a batch")
    imgsz: int = option(640, "pixels of the longer side, a multiple of the stride", flags=("--img", "--img-size"))
    conf_thres: float = option(0.001, "drop detections at or below this confidence")
    iou_thres: float = option(0.6, "IoU of the non-maximum suppression")
    max_det: int = option(300, "most detections of an image")
    task: str = option("val", "split to evaluate, or speed", choices=("train", "val", "test", "speed", "study"))
    device: str = option("", "cpu, mps or a CUDA index; the first GPU if there is one")
    workers: int = option(8, "processes that load images")
    single_cls: bool = option(False, "treat all classes as one")
    verbose: bool = option(False, "report each class, however many there are")
    save_txt: bool = option(False, "write labels/*.txt with the detections")
    save_conf: bool = option(False, "append the confidence to each row of --save-txt")
    save_json: bool = option(False, "write the detections as COCO JSON")
    project: str = option("runs/val", "folder of the runs")
    name: str = option("exp", "name of the run below --project")
    exist_ok: bool = option(False, "write into an existing run instead of a new one")
    half: bool = option(False, "compute in float16 on a GPU")


def run(options: ValOptions) -> Evaluation:
    """Evaluate a checkpoint and write the results into a new run directory.

    Raises:
        UserError: If the options, the weights or the data set cannot be used.
    """
    _check(options)
    speed = options.task == "speed"
    device = select_device(options.device)
    if options.half and device.type != "cuda":
        raise UserError(f"--half needs a CUDA GPU, this run is on {device.type}; leave --half out")
    dataset = load_dataset_config(options.data)
    model = load_model(options.weights[0], device=device)
    _check_classes(model, dataset, options)
    samples = scan_samples(
        dataset.sources(_split(options)), dataset.nc, single_cls=options.single_cls, require_labels=False
    )
    loader = _make_loader(options, samples, stride=max(int(model.stride.max()), 32))
    names = {0: "item"} if options.single_cls else dataset.names
    inputs = (file for sample in samples for file in (sample.path, label_path_of(sample.path)))
    run_dir = make_results_directory(options.project, options.name, exist_ok=options.exist_ok, inputs=inputs)
    logger.info("%s on %s", options.weights[0], describe_device(device))
    text, predictions = _consumers(options, run_dir, names, samples)
    evaluation = evaluate(
        model,
        loader,
        names,
        conf_thres=0.25 if speed else options.conf_thres,
        iou_thres=0.45 if speed else options.iou_thres,
        max_det=options.max_det,
        single_cls=options.single_cls,
        amp=torch.float16 if device.type == "cuda" and (options.half or speed) else torch.float32,
        save_dir=run_dir,
        plots=not speed,
        consumers=[*text, *predictions],
        verbose=options.verbose or len(names) < CLASS_ROWS,
    )
    write_text(run_dir / "metrics.json", json.dumps(evaluation.to_dict(), indent=2) + "\n")
    times = ", ".join(f"{ms:.1f} ms {stage}" for stage, ms in evaluation.speed_ms.items())
    logger.info("Speed: %s per image, %d images of at most %d pixels a batch", times, options.batch_size, options.imgsz)
    for writer in predictions:
        _log_coco(dataset, options, names, writer)
    for folder in text:
        logger.info("%d label files in %s", folder.count, folder.folder)
    logger.info("Results in %s", run_dir)
    return evaluation


def _check(options: ValOptions) -> None:
    """Refuse values that cannot work, before anything is loaded."""
    if len(options.weights) != 1:
        found = f"{len(options.weights)} files" if options.weights else "nothing"
        raise UserError(f"--weights: found {found}, expected one .pt file, such as runs/train/exp/weights/best.pt")
    if options.task == "study":
        raise UserError("--task study is not implemented; run val.py once for each --imgsz")
    for name in ("conf_thres", "iou_thres"):
        if not 0 <= getattr(options, name) <= 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected a value from 0 to 1")
    for name, least in (("batch_size", 1), ("imgsz", 32), ("max_det", 1), ("workers", 0)):
        if getattr(options, name) < least:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected at least {least}")
    if options.imgsz > MAX_SIDE:
        raise UserError(f"--imgsz {options.imgsz}: expected at most {MAX_SIDE}")
    check_project(options.project)
    if options.conf_thres > 0.001 and options.task != "speed":
        logger.warning("--conf-thres %g is above 0.001: recall and mAP will be too low", options.conf_thres)


def _check_classes(model: Model, dataset: DatasetConfig, options: ValOptions) -> None:
    if model.nc != dataset.nc and not options.single_cls:
        raise UserError(
            f"{options.weights[0]} knows {model.nc} classes but {dataset.file} has {dataset.nc}; "
            "give the data set the model was trained on with --data, or treat all classes as one with --single-cls"
        )


def _split(options: ValOptions) -> Split:
    return cast(Split, options.task) if options.task in get_args(Split) else "val"


def _make_loader(options: ValOptions, samples: list[Sample], *, stride: int) -> DetectionLoader:
    """Rectangular batches with a border of half a stride; for timing, squares."""
    speed = options.task == "speed"
    imgsz = math.ceil(options.imgsz / stride) * stride
    if imgsz != options.imgsz:
        logger.warning("--imgsz %d is not a multiple of the stride %d: using %d", options.imgsz, stride, imgsz)
    return make_loader(
        samples,
        imgsz=imgsz,
        batch_size=options.batch_size,
        stride=stride,
        rect=not speed,
        pad=0.0 if speed else 0.5,
        workers=options.workers,
    )


def _consumers(
    options: ValOptions, run_dir: Path, names: dict[int, str], samples: list[Sample]
) -> tuple[list[TextWriter], list[CocoJsonWriter]]:
    """The writers that the options ask for, none or one of each kind."""
    text = [TextWriter(run_dir / "labels", save_conf=options.save_conf)] if options.save_txt else []
    wants_json = options.save_json or Path(options.data).name == "coco.yaml"
    if not wants_json or options.task == "speed":
        return text, []
    coco = is_coco(names, (sample.path.stem for sample in samples))
    file = run_dir / f"{Path(options.weights[0]).stem}_predictions.json"
    return text, [CocoJsonWriter(file, category_ids(names, coco=coco))]


def _log_coco(dataset: DatasetConfig, options: ValOptions, names: dict[int, str], writer: CocoJsonWriter) -> None:
    """Log the official COCO numbers beside ours, where the data set comes with COCO annotations."""
    logger.info("%d detections in %s", len(writer.rows), writer.file)
    source = dataset.sources(_split(options))[0]
    if isinstance(source, AnnotatedImages):
        annotations = source.annotations
    else:
        annotations = dataset.root / "annotations" / f"instances_{source.stem}.json"
    if not annotations.is_file():
        logger.info("no COCO evaluation: there is no %s", annotations)
        return
    categories = dict(zip(writer.category_ids, names.values(), strict=True))
    try:
        statistics = coco_statistics(annotations, writer.file, writer.image_ids, categories)
    except UserError as error:
        logger.warning("no COCO evaluation: %s", error)
        return
    logger.info("COCO evaluation: %s", ", ".join(f"{name} {value:.3f}" for name, value in statistics.items()))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    run(parse_options(ValOptions, argv, prog="val.py", description=__doc__ or "", refused=REFUSED))


if __name__ == "__main__":
    sys.exit(run_command(main))
