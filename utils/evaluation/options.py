"""The options of val.py."""

import logging
from dataclasses import dataclass

from utils.config import option
from utils.data.images import MAX_SIDE
from utils.errors import UserError
from utils.files import check_project

logger = logging.getLogger(__name__)

_TASKS = ("train", "val", "test", "speed", "study")
_NOT_IN_SPEED = ("save_json", "save_hybrid", "compare")
_NOT_IN_STUDY = ("save_txt", "save_hybrid", "save_json", "compare", "dnn")


@dataclass(frozen=True)
class ValOptions:
    """What val.py can be told; the flags are those of YOLOv5, --compare and --published-pads."""

    data: str = option("data/shapes.yaml", "data set YAML")
    weights: tuple[str, ...] = option((), "the .pt file to evaluate; several are evaluated as one model")
    batch_size: int = option(32, "images a batch")
    imgsz: int = option(640, "pixels of the longer side, a multiple of the stride", flags=("--img", "--img-size"))
    conf_thres: float = option(0.001, "drop detections at or below this confidence")
    iou_thres: float = option(0.6, "IoU of the non-maximum suppression")
    max_det: int = option(300, "most detections of an image")
    task: str = option("val", "split to evaluate; or speed, or study: accuracy and speed over --imgsz", choices=_TASKS)
    device: str = option("", "cpu, mps or a CUDA index; the first GPU if there is one")
    workers: int = option(8, "processes that load images")
    single_cls: bool = option(False, "treat all classes as one")
    augment: bool = option(False, "look at each image in three sizes, once mirrored (test-time augmentation)")
    verbose: bool = option(False, "report each class, however many there are")
    save_txt: bool = option(False, "write labels/*.txt with the detections")
    save_hybrid: bool = option(False, "write labels/*.txt with the labels and, where they miss something, detections")
    save_conf: bool = option(False, "append the confidence to each row of --save-txt")
    save_json: bool = option(False, "write the detections as COCO JSON")
    compare: str = option("", "folder of an earlier run of val.py on the same images, to compare with")
    project: str = option("runs/val", "folder of the runs")
    name: str = option("exp", "name of the run below --project")
    exist_ok: bool = option(False, "write into an existing run instead of a new one")
    half: bool = option(False, "compute in float16 on a GPU")
    dnn: bool = option(False, "let OpenCV compute an .onnx file")
    published_pads: bool = option(False, "place boxes as YOLOv5 does, half a pixel off in some images, for its figures")


def check_options(options: ValOptions) -> None:
    """Refuse values that cannot work, before anything is loaded, and warn of those that seldom make sense.

    Raises:
        UserError: For the first of them.
    """
    if not options.weights:
        raise UserError("--weights: found nothing, expected a .pt file, such as runs/train/exp/weights/best.pt")
    for name in ("conf_thres", "iou_thres"):
        if not 0 <= getattr(options, name) <= 1:
            raise UserError(f"{_flag(name)} {getattr(options, name)}: expected a value from 0 to 1")
    for name, least in (("batch_size", 1), ("imgsz", 32), ("max_det", 1), ("workers", 0)):
        if getattr(options, name) < least:
            raise UserError(f"{_flag(name)} {getattr(options, name)}: expected at least {least}")
    if options.imgsz > MAX_SIDE:
        raise UserError(f"--imgsz {options.imgsz}: expected at most {MAX_SIDE}")
    check_project(options.project)
    for name in _NOT_IN_STUDY:
        if options.task == "study" and getattr(options, name):
            raise UserError(
                f"--task study: measures .pt files in many sizes and writes no detections; leave {_flag(name)} out"
            )
    for name in _NOT_IN_SPEED:
        if options.task == "speed" and getattr(options, name):
            raise UserError(f"--task speed: measures time only; leave {_flag(name)} out, or take --task val")
    if options.compare and options.save_hybrid:
        raise UserError("--compare: with --save-hybrid the metrics mean nothing; leave one of them out")
    if options.conf_thres > 0.001 and options.task != "speed":
        logger.warning("--conf-thres %g is above 0.001: recall and mAP will be too low", options.conf_thres)
    if options.save_hybrid:
        logger.warning("--save-hybrid: the labels are among the detections, so the metrics mean nothing")
    elif options.save_conf and not options.save_txt:
        logger.warning("--save-conf has no effect without --save-txt")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
