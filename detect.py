"""Find objects in images and videos with a trained model, and draw, list or crop them."""

if __name__ == "__main__":
    from utils.cli import end_at_once_on_interrupt

    end_at_once_on_interrupt()


import contextlib
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.inference import InferenceModel, infer, load_detector, warm_up
from models.onnx import OnnxModel
from utils.boxes import unletterbox
from utils.cli import run_command
from utils.config import option, parse_options
from utils.data.config import find_dataset_file, load_dataset_config
from utils.data.images import MAX_SIDE, Image, applied_pad, letterbox, to_chw_rgb
from utils.data.sources import open_source
from utils.device import describe_device, synchronize
from utils.errors import UserError
from utils.files import check_project
from utils.nms import Detections, non_max_suppression
from utils.show.draw import draw_detections
from utils.show.pictures import PictureWriter, Window
from utils.show.results import make_results_directory
from utils.show.writers import CropWriter, CsvWriter, LabelWriter

logger = logging.getLogger(__name__)

_REFUSED = {
    "--visualize": "feature maps are not drawn; leave it out",
    "--update": "it would overwrite your checkpoint; leave it out",
}


@dataclass(frozen=True)
class DetectOptions:
    """Everything detect.py can be told; each field is a flag of the command line."""

    weights: tuple[str, ...] = option((), "trained model, a .pt file; several look for objects together")
    source: str = option("", "image, video, folder, glob pattern or .txt list; by default the built-in test images")
    data: str = option("", "data set YAML, asked for class names only if the model has none")
    imgsz: tuple[int, ...] = option(
        (640,),
        "size of the network's input in pixels: one for a square, or height and width",
        flags=("--img", "--img-size"),
    )
    conf_thres: float = option(0.25, "drop detections less confident than this")
    iou_thres: float = option(0.45, "drop a box that overlaps a more confident one of its class by more than this")
    max_det: int = option(1000, "most detections of one image")
    device: str = option("", "cpu, mps or the index of a GPU; by default the first GPU if there is one")
    view_img: bool = option(False, "show the pictures in windows")
    save_txt: bool = option(False, "write labels/<image>.txt")
    save_format: int = option(0, "rows of the txt files: 0 for class cx cy w h, 1 for class x1 y1 x2 y2, as fractions")
    save_csv: bool = option(False, "write predictions.csv")
    save_conf: bool = option(False, "with --save-txt: append the confidence to each row")
    save_crop: bool = option(False, "write each object to crops/<class>/")
    nosave: bool = option(False, "write no images and videos")
    classes: tuple[int, ...] = option((), "keep these class indices only")
    agnostic_nms: bool = option(False, "let boxes of different classes suppress each other")
    augment: bool = option(False, "look at each image in three sizes, once mirrored (test-time augmentation)")
    project: str = option("runs/detect", "folder of all runs")
    name: str = option("exp", "folder of this run, numbered if it exists")
    exist_ok: bool = option(False, "write into the folder even if it exists")
    line_thickness: int = option(3, "pixels of the lines of boxes")
    hide_labels: bool = option(False, "draw boxes only")
    hide_conf: bool = option(False, "draw class names without the confidence")
    half: bool = option(False, "compute in half precision, on a GPU")
    dnn: bool = option(False, "let OpenCV compute an .onnx file")
    vid_stride: int = option(1, "use every n-th frame of a video")


@dataclass(frozen=True)
class DetectRun:
    """What a run of detect.py did.

    Attributes:
        directory: Where its files are.
        frames: Number of images and frames of videos.
        objects: Number of detections in all of them.
        milliseconds: Mean time of pre-processing, inference and suppression of one frame.
    """

    directory: Path
    frames: int
    objects: int
    milliseconds: tuple[float, float, float]


def run(options: DetectOptions) -> DetectRun:
    """Detect objects in every frame of a source and write what the options ask for.

    Raises:
        UserError: For an option, a source or a model that cannot be used; for a file of several that cannot be used,
            after all others are done.
    """
    _check(options)
    source = open_source(options.source or _builtin_images(), vid_stride=options.vid_stride)
    model = load_detector(
        options.weights, device=options.device, half=options.half, augment=options.augment, dnn=options.dnn
    )
    names = _class_names(model, options.data)
    _check_classes(options.classes, names)
    stride = max(int(model.stride.max()), 32)
    shape = _input_shape(options.imgsz, stride)
    if isinstance(model, OnnxModel):
        model.check_size(*shape)
    logger.info("%s", describe_device(model.stride.device))

    seconds = np.zeros(3)
    frames = objects = 0
    with contextlib.ExitStack() as outputs:
        pictures: list[Window | PictureWriter] = []
        if options.view_img:
            pictures.append(outputs.enter_context(contextlib.closing(Window())))
        directory = make_results_directory(
            options.project, options.name, exist_ok=options.exist_ok, inputs=source.files
        )
        outputs.callback(logger.info, "Results in %s", directory)  # also where a file could not be used
        if not options.nosave:
            pictures.append(outputs.enter_context(contextlib.closing(PictureWriter(directory))))
        records = _records(options, directory, names, outputs)
        warm_up(model, shape, half=options.half)
        for frame in source:
            detections, input_shape, taken = detect_objects(model, frame.image, shape, stride, options)
            seconds += taken
            frames, objects = frames + 1, objects + len(detections)
            for record in records:
                record.write(frame, detections)
            if pictures:
                drawn = draw_detections(
                    frame.image,
                    detections,
                    names,
                    line_thickness=options.line_thickness,
                    hide_labels=options.hide_labels,
                    hide_conf=options.hide_conf,
                )
                for picture in pictures:
                    picture.write(frame, drawn)
            size, counts = f"{input_shape[0]}x{input_shape[1]}", summarize(detections, names)
            logger.info("%s: %s %s, %.1fms", frame, size, counts, taken[1] * 1e3)

        pre, inference, nms = (seconds / frames * 1e3).tolist()
        speed = "Speed: %.1fms pre-process, %.1fms inference, %.1fms NMS per image at shape %s"
        logger.info(speed, pre, inference, nms, (1, 3, *shape))
        for record in records:
            if isinstance(record, LabelWriter):
                logger.info("%d label files in %s", record.count, directory / "labels")
    return DetectRun(directory, frames, objects, (pre, inference, nms))


@torch.inference_mode()
def detect_objects(
    model: InferenceModel, image: Image, shape: tuple[int, int], stride: int, options: DetectOptions
) -> tuple[Detections, tuple[int, int], np.ndarray]:
    """Detect objects in one image.

    Args:
        model: In evaluation mode.
        image: BGR uint8 (h, w, 3).
        shape: (h, w) the image is fitted into, multiples of `stride`.
        stride: The largest of the model.
        options: Thresholds and filters.

    Returns:
        Detections on the CPU, in whole pixels of `image`; the (h, w) of the network's input; and the seconds taken by
        pre-processing, inference and suppression.
    """
    device = model.stride.device
    times = [_now(device)]
    fitted, ratio, pad = letterbox(image, shape, auto=not isinstance(model, OnnxModel), stride=stride)
    images = torch.from_numpy(to_chw_rgb(fitted)).to(device)[None].float() / 255  # (1, 3, H, W)
    times.append(_now(device))
    decoded = infer(model, images, half=options.half)
    times.append(_now(device))
    (found,) = non_max_suppression(
        decoded,
        conf_thres=options.conf_thres,
        iou_thres=options.iou_thres,
        classes=options.classes or None,
        agnostic=options.agnostic_nms,
        max_det=options.max_det,
    )
    boxes = unletterbox(found.xyxy, image.shape[:2], ratio, applied_pad(pad)).round()
    detections = Detections(boxes, found.conf, found.cls).cpu()
    times.append(_now(device))
    return detections, fitted.shape[:2], np.diff(times)


def summarize(detections: Detections, names: Mapping[int, str]) -> str:
    """What was found, in words, such as `2 persons, 1 bus`."""
    indices, counts = detections.cls.unique(return_counts=True)
    pairs = zip(indices.tolist(), counts.tolist(), strict=True)
    return ", ".join(f"{count} {names[cls]}{'s' * (count > 1)}" for cls, count in pairs) or "(no detections)"


def _now(device: torch.device) -> float:
    synchronize(device)
    return time.perf_counter()


def _records(
    options: DetectOptions, directory: Path, names: Mapping[int, str], outputs: contextlib.ExitStack
) -> list[LabelWriter | CropWriter | CsvWriter]:
    records: list[LabelWriter | CropWriter | CsvWriter] = []
    if options.save_txt:
        labels = directory / "labels"
        labels.mkdir(exist_ok=True)
        records.append(LabelWriter(labels, confidence=options.save_conf, corners=options.save_format == 1))
    if options.save_crop:
        records.append(CropWriter(directory / "crops", names))
    if options.save_csv:
        records.append(outputs.enter_context(contextlib.closing(CsvWriter(directory / "predictions.csv", names))))
    return records


def _check(options: DetectOptions) -> None:
    for flag, value in (("--conf-thres", options.conf_thres), ("--iou-thres", options.iou_thres)):
        if not 0 <= value <= 1:
            raise UserError(f"{flag} {value}: expected a value from 0 to 1")
    for flag, number in (("--max-det", options.max_det), ("--line-thickness", options.line_thickness)):
        if number < 1:
            raise UserError(f"{flag} {number}: expected 1 or more")
    if len(options.imgsz) > 2 or not all(1 <= side <= MAX_SIDE for side in options.imgsz):
        found = " ".join(map(str, options.imgsz))
        raise UserError(f"--imgsz {found}: expected one size or height and width, from 1 to {MAX_SIDE} pixels")
    if options.save_format not in (0, 1):
        raise UserError(f"--save-format {options.save_format}: expected 0 (cx cy w h) or 1 (x1 y1 x2 y2)")
    for flag, given in (("--save-conf", options.save_conf), ("--save-format", options.save_format)):
        if given and not options.save_txt:
            logger.warning("%s has no effect without --save-txt", flag)
    if not options.weights:
        raise UserError(f"--weights is missing: give the .pt file of a trained model{_newest_weights()}")
    if options.data:
        find_dataset_file(options.data)
    check_project(options.project)


def _newest_weights() -> str:
    runs = sorted(Path("runs/train").glob("*/weights/best.pt"), key=lambda path: path.stat().st_mtime)
    return f", for example --weights {runs[-1]}" if runs else "; train.py makes one"


def _check_classes(classes: tuple[int, ...], names: Mapping[int, str]) -> None:
    for cls in classes:
        if cls not in names:
            raise UserError(f"--classes {cls}: the model has the classes 0 to {len(names) - 1}")


def _class_names(model: InferenceModel, data: str) -> Mapping[int, str]:
    unnamed = all(name == str(index) for index, name in model.names.items())
    if not (unnamed and data):
        return model.names
    names = load_dataset_config(data).names
    if len(names) != model.nc:
        raise UserError(f"--data {data}: has {len(names)} classes, the model has {model.nc}; give its own data set")
    return names


def _input_shape(imgsz: tuple[int, ...], stride: int) -> tuple[int, int]:
    """(h, w), rounded up to what the network can take."""
    h, w = (-(-size // stride) * stride for size in (imgsz[0], imgsz[-1]))
    if (h, w) != (imgsz[0], imgsz[-1]):
        logger.warning("--imgsz: rounded up to %d x %d, multiples of the stride %d", h, w, stride)
    return h, w


def _builtin_images() -> str:
    return str(load_dataset_config("shapes.yaml").sources("test")[0])


def main(argv: Sequence[str] | None = None) -> None:
    """Run detect.py as the command line says."""
    # We report a video that cannot be read ourselves; 'quiet' for the library below OpenCV is -8.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    run(parse_options(DetectOptions, argv, prog="detect.py", description=__doc__ or "", refused=_REFUSED))


if __name__ == "__main__":
    sys.exit(run_command(main))
