"""The options of train.py."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from utils.config import option, parse_options
from utils.errors import UserError
from utils.training.events import TRACKER_CHOICES, check_trackers
from utils.training.precision import AMP

REFUSED = {
    "--evolve-population": "the search has no generations; it proposes one training after the other",
    "--bucket": "nothing is uploaded; copy the run folder to your storage afterwards",
    "--local-rank": "start the processes with torchrun, which needs no such flag",
    "--entity": "set the environment variable WANDB_ENTITY for --tracker wandb",
    "--upload-dataset": "data sets are not uploaded",
    "--artifact-alias": "data sets are not taken from trackers",
}
"""Flags of YOLOv5's train.py that are understood but not implemented, with the reason."""

NEWEST = "newest"
_LARGEST_IMGSZ = 8192
_CHANGEABLE = ("data", "device", "epochs", "workers", "cache", "tracker")


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """What train.py can be told; names and defaults of YOLOv5, except for --weights and --data."""

    weights: str = option("", "checkpoint to start from; empty trains from scratch and needs --cfg")
    cfg: str = option("", "model YAML; empty takes the architecture of --weights")
    data: str = option("data/shapes.yaml", "data set YAML")
    hyp: str = option("data/hyps/hyp.scratch-low.yaml", "hyperparameter YAML")
    epochs: int = option(100, "number of epochs")
    batch_size: int = option(16, "images per batch, over all processes; -1 for as many as the memory holds")
    imgsz: int = option(640, "side of the network input in pixels", flags=("--img", "--img-size"))
    rect: bool = option(
        False, "batches of similar aspect ratio instead of squares; no mosaic, batches keep their images"
    )
    resume: str = option(
        "", "continue a run: its folder or last.pt; bare, the newest unfinished below runs/", bare=NEWEST
    )
    nosave: bool = option(False, "write checkpoints only after the final epoch")
    noval: bool = option(False, "evaluate only after the final epoch")
    quad: bool = option(False, "four images in one of twice the side; trains better above --imgsz 640")
    cache: str = option(
        "",
        "keep resized images in ram or on disk; val only those of the validation split, in ram",
        bare="ram",
        choices=("ram", "disk", "val"),
    )
    image_weights: bool = option(False, "draw images with rare and badly detected classes more often")
    class_balanced: bool = option(False, "draw images so that every class is met equally often")
    noautoanchor: bool = option(False, "keep the anchors even if they do not suit the data set")
    evolve: int = option(0, "search for hyperparameters in so many trainings", bare=300)
    resume_evolve: str = option("", "folder of a search to continue")
    noplots: bool = option(False, "write no plots")
    device: str = option("", "cpu, mps or a CUDA index; empty takes the first GPU, else the CPU")
    multi_scale: bool = option(False, "another input size for every batch, half to one and a half of --imgsz")
    sync_bn: bool = option(False, "statistics of BatchNorm over all processes, on GPUs")
    single_cls: bool = option(False, "treat all objects as one class")
    amp: str = option(
        "auto", "type to compute in; auto is fp16 on a CUDA GPU and off elsewhere", choices=("auto", *AMP)
    )
    compile: bool = option(False, "translate the model with torch.compile on the first batch")
    optimizer: str = option("SGD", "optimizer", choices=("SGD", "Adam", "AdamW"))
    workers: int = option(8, "most processes that load images")
    project: str = option("runs/train", "folder of runs")
    name: str = option("exp", "name of this run; cfg takes the stem of --cfg")
    exist_ok: bool = option(False, "use the run folder even if it exists, unless it holds results of a training")
    cos_lr: bool = option(False, "let the learning rate fall along a cosine instead of a line")
    label_smoothing: float = option(0.0, "share of certainty taken from the true class")
    patience: int = option(100, "end after this many epochs without progress; 0 never")
    freeze: tuple[int, ...] = option((0,), "layers not to train: one number N for the first N, or several indices")
    save_period: int = option(-1, "keep a checkpoint every so many epochs; below 1 none")
    seed: int = option(0, "seed of all random numbers")
    tracker: tuple[str, ...] = option(
        ("auto",), "trackers; auto is TensorBoard if it is installed", choices=TRACKER_CHOICES
    )
    bbox_interval: int = option(-1, "epochs between pictures for the trackers; 0 none, -1 ten times")
    deterministic: bool = option(False, "same bits in every run on a GPU too, with slower algorithms")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # from Python they can be of any type
            value, kind = getattr(self, field.name), type(field.default)
            if not isinstance(value, {float: (float, int), tuple: (tuple, list)}.get(kind, kind)):
                raise UserError(f"{field.name}={value!r}: expected {kind.__name__}, such as {field.default!r}")
        lowest = {"evolve": 0, "epochs": 1, "imgsz": 1, "workers": 0, "patience": 0, "seed": 0}
        for name, low in lowest.items():
            if (value := getattr(self, name)) < low:
                raise UserError(f"--{name} {value}: expected {low} or more")
        if self.batch_size < 1 and self.batch_size != -1:
            raise UserError(f"--batch-size {self.batch_size}: expected 1 or more, or -1 to choose it by memory")
        if self.image_weights and self.class_balanced:
            raise UserError("--image-weights and --class-balanced: both say how often images are drawn; give one")
        if self.resume and (self.evolve or self.resume_evolve):
            raise UserError("--resume continues a run, --evolve starts a search; to continue one give --resume-evolve")
        if self.rect and (self.image_weights or self.class_balanced):
            raise UserError(
                "--rect keeps the images of a batch together, so they cannot be drawn by weight; leave it out"
            )
        check_trackers(self.tracker)
        if self.imgsz > _LARGEST_IMGSZ:
            raise UserError(f"--imgsz {self.imgsz}: expected {_LARGEST_IMGSZ} or less")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"--label-smoothing {self.label_smoothing}: expected a number from 0 to below 1")
        if self.seed >= 2**32 - 1:
            raise UserError(f"--seed {self.seed}: expected a number below 2**32 - 1")
        if min(self.freeze) < 0:
            raise UserError(f"--freeze {min(self.freeze)}: expected the number of a layer, from 0")
        if not (self.weights or self.cfg or self.resume):
            raise UserError(
                "neither --weights nor --cfg is given; train from scratch with for example --cfg yolov5n.yaml, "
                "or start from a checkpoint with --weights last.pt"
            )


def parse_train_options(argv: Sequence[str] | None) -> TrainOptions:
    """Read the command line of train.py.

    Raises:
        UserError: For an unknown or refused flag or a bad value.
    """
    return _parse(TrainOptions, argv)


def resumed_options(stored: Mapping[str, Any], argv: Sequence[str] | None) -> TrainOptions:
    """The options of the run to continue, with those changes on the command line that make sense.

    Args:
        stored: Options as the checkpoint holds them.
        argv: The command line with `--resume`.

    Raises:
        UserError: If a flag differs from the stored value and cannot change within a run.
    """
    stored = complete_options(stored)
    fields = [(f.name, f.type, option(stored[f.name], **_meta(f))) for f in dataclasses.fields(TrainOptions)]
    as_stored = dataclasses.make_dataclass("TrainOptions", fields, bases=(), frozen=True)
    given = dataclasses.asdict(_parse(as_stored, argv))
    return change_options(stored, {key: value for key, value in given.items() if value != stored[key]})


def change_options(stored: Mapping[str, Any], changes: Mapping[str, Any]) -> TrainOptions:
    """The options of the run to continue, with changes.

    Args:
        stored: Options as the checkpoint holds them.
        changes: Other values wished for; `resume` is left out of account.

    Raises:
        UserError: If one of the changes cannot be made within a run.
    """
    stored = complete_options(stored)
    changes = {name: value for name, value in changes.items() if name != "resume"}
    for name in changes.keys() - set(_CHANGEABLE):
        if changes[name] != stored[name]:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{flag} {_shown(changes[name])}: the run to resume has {_shown(stored[name])}, and with --resume only "
                f"{', '.join(f'--{key}' for key in _CHANGEABLE)} can change; leave the flag away, or start a new run "
                "with --weights"
            )
    return TrainOptions(**{**stored, **changes})


def complete_options(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a run, with the defaults of those that are younger than its checkpoint."""
    defaults = {field.name: field.default for field in dataclasses.fields(TrainOptions)}
    values = {**defaults, **stored, "resume": ""}
    return {name: tuple(value) if isinstance(defaults.get(name), tuple) else value for name, value in values.items()}


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value) or '""'


def _meta(field: "dataclasses.Field[Any]") -> dict[str, Any]:
    return {key: field.metadata[key] for key in ("help", "flags", "choices", "bare")}


def _parse(cls: type[Any], argv: Sequence[str] | None) -> Any:
    return parse_options(
        cls, argv, prog="train.py", description="Train a detector on a data set in YOLO format.", refused=REFUSED
    )
