"""Measure a detector on a data set: precision, recall, mAP, speed, plots and predictions.

python val.py --weights runs/train/exp/weights/best.pt --data data/shapes.yaml
"""

if __name__ == "__main__":
    from utils.cli import end_at_once_on_interrupt

    end_at_once_on_interrupt()


import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import torch

from models.inference import InferenceModel, load_detector, warm_up
from models.onnx import OnnxModel
from utils.cli import run_command
from utils.config import parse_options
from utils.data.config import DatasetConfig, Split, load_dataset_config
from utils.data.labels import label_path_of
from utils.data.loader import DetectionLoader, make_loader
from utils.data.scan import Sample, scan_samples
from utils.device import describe_device
from utils.errors import UserError
from utils.evaluation.annotations import Annotations, Id, official_annotations
from utils.evaluation.breakdown import ErrorBreakdown, log_breakdown
from utils.evaluation.coco import CocoEvaluator, category_ids, is_coco
from utils.evaluation.compare import check_classes, check_images, check_labels, compare
from utils.evaluation.comparison_report import log_comparison, save_comparison
from utils.evaluation.consumers import CocoJsonWriter, TextWriter, ids_by_name
from utils.evaluation.evaluate import Evaluation, evaluate
from utils.evaluation.leftovers import earlier_results, remove_leftovers
from utils.evaluation.options import ValOptions, check_options
from utils.evaluation.record import FILE_NAME, MatchRecorder, image_names, read_record
from utils.evaluation.study import SIZES, Study
from utils.evaluation.tables import write_tables
from utils.files import write_text
from utils.show.results import make_results_directory

logger = logging.getLogger(__name__)

CLASS_ROWS = 50
"""With fewer classes than this each one gets a row, even without --verbose."""


def run(options: ValOptions) -> Evaluation:
    """Evaluate a model, or several as one, and write the results into a new run directory.

    Raises:
        UserError: If the options, the weights or the data set cannot be used.
    """
    check_options(options)
    speed = options.task == "speed"
    dataset = load_dataset_config(options.data)
    names = _names(options, dataset)
    baseline = read_record(Path(options.compare)) if options.compare else None
    if baseline is not None:
        check_classes(baseline, names)
    model = _load(options, options.weights, dataset)
    options = _fit(options, model)
    samples = _scan(options, dataset)
    if baseline is not None:
        check_images(baseline, image_names([sample.path for sample in samples]))
        check_labels(sum(len(sample.labels) for sample in samples))
    loader = _make_loader(options, model, samples)
    annotations = None
    if not speed:
        annotations = official_annotations(dataset, _split(options), samples, single_cls=options.single_cls)
    ids = _ids_of_json(names, samples, annotations) if _wants_json(options) else None
    run_dir = _make_run_directory(options, samples)
    json_file = run_dir / f"{Path(options.weights[0]).stem}_predictions.json"
    earlier = earlier_results(run_dir, json_file.name)
    text = [TextWriter(run_dir / "labels", save_conf=options.save_conf)] if _wants_text(options) else []
    predictions = [CocoJsonWriter(json_file, *ids)] if ids else []
    recorder, breakdown = MatchRecorder(run_dir / FILE_NAME, names), ErrorBreakdown(run_dir, names)
    evaluation = _evaluate(
        options,
        model,
        loader,
        names,
        save_dir=run_dir,
        plots=not speed,
        consumers=[*text, *predictions, *(() if speed else (recorder, breakdown))],
        coco=None if speed else CocoEvaluator(names, annotations),
        verbose=options.verbose or len(names) < CLASS_ROWS,
    )
    write_text(run_dir / "metrics.json", json.dumps(evaluation.to_dict(), indent=2) + "\n")
    if not speed:
        write_tables(run_dir, evaluation)
        log_breakdown(breakdown.result)
    if baseline is not None:
        comparison = compare(recorder.record(), baseline)
        save_comparison(run_dir, comparison)
        log_comparison(comparison)
    remove_leftovers(earlier)
    times = ", ".join(f"{ms:.1f} ms {stage}" for stage, ms in evaluation.speed_ms.items())
    logger.info("Speed: %s per image, %d images of at most %d pixels a batch", times, options.batch_size, options.imgsz)
    for writer in predictions:
        logger.info("%d detections in %s", len(writer.rows), writer.file)
    for labels in text:
        logger.info("%d label files in %s", len(labels.files), labels.folder)
    if others := set((run_dir / "labels").glob("*.txt")).difference(*(labels.files for labels in text)):
        logger.warning("%d label files of others are left in %s", len(others), run_dir / "labels")
    logger.info("Results in %s", run_dir)
    return evaluation


def study(options: ValOptions) -> Study:
    """Evaluate each model at each of `SIZES`, and write a table and a plot of accuracy and speed.

    Raises:
        UserError: If the options, the weights or the data set cannot be used.
    """
    check_options(options)
    dataset = load_dataset_config(options.data)
    models = {weights: _load(options, [weights], dataset) for weights in options.weights}
    samples = _scan(options, dataset)
    run_dir = _make_run_directory(options, samples)
    points = Study(run_dir, dataset.file.stem)
    for weights, model in models.items():
        for imgsz in SIZES:
            logger.info("%s at %d pixels", weights, imgsz)
            at_size = _fit(replace(options, imgsz=imgsz), model)
            loader = _make_loader(at_size, model, samples)
            points.add(weights, imgsz, _evaluate(at_size, model, loader, _names(options, dataset)))
    logger.info("Results in %s", run_dir)
    return points


def _load(options: ValOptions, weights: Sequence[str], dataset: DatasetConfig) -> InferenceModel:
    model = load_detector(weights, device=options.device, half=options.half, augment=options.augment, dnn=options.dnn)
    if model.nc != dataset.nc and not options.single_cls:
        raise UserError(
            f"{weights[0]} knows {model.nc} classes but {dataset.file} has {dataset.nc}; "
            "give the data set the model was trained on with --data, or treat all classes as one with --single-cls"
        )
    if model.names != dataset.names and not options.single_cls:
        logger.warning("%s and %s call classes differently: %s", weights[0], dataset.file, _renamed(model, dataset))
    logger.info("%s on %s", ", ".join(weights), describe_device(model.stride.device))
    return model


def _renamed(model: InferenceModel, dataset: DatasetConfig) -> str:
    cls = next(cls for cls, name in dataset.names.items() if model.names.get(cls) != name)
    return f"{cls} is {model.names.get(cls)!r} and {dataset.names[cls]!r}"


def _fit(options: ValOptions, model: InferenceModel) -> ValOptions:
    """The options as the task wants and the model allows."""
    stride = _stride(model)
    imgsz = math.ceil(options.imgsz / stride) * stride
    if imgsz != options.imgsz:
        logger.warning("--imgsz %d is not a multiple of the stride %d: using %d", options.imgsz, stride, imgsz)
    options = replace(options, imgsz=imgsz)
    if isinstance(model, OnnxModel):
        model.check_size(imgsz, imgsz)
        options = replace(options, batch_size=1)
    return replace(options, conf_thres=0.25, iou_thres=0.45) if options.task == "speed" else options


def _scan(options: ValOptions, dataset: DatasetConfig) -> list[Sample]:
    sources = dataset.sources(_split(options))
    return scan_samples(sources, dataset.nc, single_cls=options.single_cls, require_labels=False)


def _make_run_directory(options: ValOptions, samples: list[Sample]) -> Path:
    inputs = [file for sample in samples for file in (sample.path, label_path_of(sample.path))]
    if options.compare:
        inputs.append(Path(options.compare, FILE_NAME))
    return make_results_directory(options.project, options.name, exist_ok=options.exist_ok, inputs=inputs)


def _make_loader(options: ValOptions, model: InferenceModel, samples: list[Sample]) -> DetectionLoader:
    """Rectangular batches with a border of half a stride; for timing and for one size only, squares."""
    speed = options.task == "speed"
    return make_loader(
        samples,
        imgsz=options.imgsz,
        batch_size=options.batch_size,
        stride=_stride(model),
        rect=not (speed or isinstance(model, OnnxModel)),
        pad=0.0 if speed else 0.5,
        workers=options.workers,
        published_pads=options.published_pads,
    )


def _evaluate(
    options: ValOptions, model: InferenceModel, loader: DetectionLoader, names: dict[int, str], **more: Any
) -> Evaluation:
    half = model.stride.device.type == "cuda" and (options.half or options.task in ("speed", "study"))
    warm_up(model, (options.imgsz, options.imgsz), half=half)
    return evaluate(
        model,
        loader,
        names,
        conf_thres=options.conf_thres,
        iou_thres=options.iou_thres,
        max_det=options.max_det,
        single_cls=options.single_cls,
        hybrid=options.save_hybrid,
        amp=torch.float16 if half else torch.float32,
        **more,
    )


def _names(options: ValOptions, dataset: DatasetConfig) -> dict[int, str]:
    return {0: "item"} if options.single_cls else dataset.names


def _split(options: ValOptions) -> Split:
    return cast(Split, options.task) if options.task in get_args(Split) else "val"


def _stride(model: InferenceModel) -> int:
    return max(int(model.stride.max()), 32)


def _wants_text(options: ValOptions) -> bool:
    return options.save_txt or options.save_hybrid


def _wants_json(options: ValOptions) -> bool:
    return options.task != "speed" and (options.save_json or Path(options.data).name == "coco.yaml")


def _ids_of_json(
    names: dict[int, str], samples: list[Sample], annotations: Annotations | None
) -> tuple[Sequence[Id], Mapping[Path, Id]]:
    """The `category_id` of each class and the `image_id` of each image: those of the annotations, if there are any."""
    if annotations:
        return annotations.category_ids, annotations.image_ids
    coco = is_coco(names, (sample.path.stem for sample in samples))
    return category_ids(names, coco=coco), ids_by_name(sample.path for sample in samples)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = parse_options(ValOptions, argv, prog="val.py", description=__doc__ or "")
    if options.task == "study":
        study(options)
    elif options.task == "speed" and len(options.weights) > 1:
        for weights in options.weights:
            run(replace(options, weights=(weights,)))
    else:
        run(options)


if __name__ == "__main__":
    sys.exit(run_command(main))
