"""How a row of the published tables is made: its commands, where they write, and what they have to have done."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.drawn import draw_coco, draw_visdrone
from benchmarks.published_tables import PUBLISHED, PublishedRow, PublishedTable
from utils.data.config import DatasetConfig
from utils.errors import UserError
from utils.files import PROGRAM_ROOT
from utils.training.hyp import load_hyp
from utils.training.options import TrainOptions

RESULTS = PROGRAM_ROOT / "runs" / "tables"
"""Where the runs of rows are, by default."""

_TRAINING: dict[str, dict[str, Any]] = {
    "full": {
        "hyp": "data/hyps/hyp.scratch-low.yaml",
        "optimizer": "SGD",
        "epochs": 300,
        "batch_size": 16,
        "imgsz": 640,
    },
    "smoke": {"hyp": "data/hyps/hyp.demo.yaml", "optimizer": "AdamW", "epochs": 20, "batch_size": 8, "imgsz": 160},
}
"""Options of train.py at each scale. No schedule was published with the tables: "full" are YOLOv5's defaults, and the
300 epochs of its own COCO models."""

_NMS_IOU = {"coco": 0.65, "visdrone": 0.6}
"""IoU of the suppression: YOLOv5's for its final figures on COCO, and its default."""

_YOLOV5_METRICS = {"P": "precision", "R": "recall", "mAP50": "map50", "mAP": "map"}
_COCO_TRUTH = "instances_val2017.json"

_DRAW: dict[str, Callable[[Path], None]] = {"coco": draw_coco, "visdrone": draw_visdrone}
"""What takes the place of the official download at scale "smoke"."""

# Options of train.py that leave its result as it is.
_MACHINE = ("device", "workers", "cache", "compile")
_FILES = ("project", "name", "exist_ok", "nosave", "noplots", "save_period", "tracker", "bbox_interval")

SCALES = tuple(_TRAINING)


@dataclass(frozen=True)
class Recipe:
    """One row at one scale.

    Attributes:
        key: Of the table.
        published: The row.
        scale: One of `SCALES`.
        results: Where the runs of all rows are.
    """

    key: str
    published: PublishedRow
    scale: str
    results: Path

    @property
    def name(self) -> str:
        """The row as in --row."""
        return f"{self.key}:{self.published.model}"

    @property
    def table(self) -> PublishedTable:
        """The row's table."""
        return PUBLISHED[self.key]

    @property
    def folder(self) -> Path:
        """Everything that was made for this row alone."""
        return self._data_folder / self.published.model

    @property
    def _data_folder(self) -> Path:
        return self.results / self.key if self.scale == "full" else self.results / self.scale / self.key

    @property
    def official(self) -> Path | None:
        """The drawn data set in its official layout; None where the real one is to be downloaded."""
        return None if self.scale == "full" else self._data_folder / "official"

    @property
    def data(self) -> Path:
        """The YAML of the prepared data set."""
        file = f"{self.table.dataset}.yaml"
        return PROGRAM_ROOT / "data" / file if self.scale == "full" else self._data_folder / "data" / file

    def draw(self) -> None:
        """Make the official data set, if it is to be drawn and is not there."""
        if self.official and not self.official.exists():
            _DRAW[self.key](self.official)

    def prepare_command(self) -> list[str]:
        """Arguments of Python that make the data set."""
        drawn = ["--from", shown(self.official), "--out", shown(self.data.parent)] if self.official else []
        return ["-m", "utils.data.prepare", self.table.dataset, *drawn, "--splits", "train", "val"]

    def training(self) -> dict[str, Any]:
        """The options of train.py that make the row what it is."""
        return {"cfg": f"{self.published.model}.yaml", "data": shown(self.data), **_TRAINING[self.scale]}

    def train_command(self, name: str = "train") -> list[str]:
        """Arguments of Python that train."""
        return ["train.py", *_flags({**self.training(), "project": shown(self.folder), "name": name})]

    def val_command(self, name: str = "val", train: str = "train") -> list[str]:
        """Arguments of Python that evaluate the best epoch."""
        options = {
            "weights": shown(self.folder / train / "weights" / "best.pt"),
            "data": shown(self.data),
            "imgsz": _TRAINING[self.scale]["imgsz"],
            **self._evaluation(),
            "project": shown(self.folder),
            "name": name,
        }
        return ["val.py", *_flags(options)]

    def check_training(self, options: Mapping[str, Any], file: Path) -> None:
        """Compare the options of a training with those of this row.

        Args:
            options: What `file` holds.
            file: Its opt.yaml, for the message.

        Raises:
            UserError: If another model, other data or other settings were trained.
        """
        expected = dataclasses.asdict(TrainOptions(**self.training()))
        expected["hyp"] = load_hyp(expected["hyp"]).to_dict()
        for option, value in expected.items():
            wanted = list(value) if isinstance(value, tuple) else value  # as YAML has it
            found = options.get(option, wanted)
            if option not in _MACHINE + _FILES and found != wanted:
                raise UserError(
                    f"{file}: {option} is {found!r}, and the row {self.name} has {wanted!r}; move that run elsewhere, "
                    "so that the row can be trained"
                )

    def check_data(self, dataset: DatasetConfig) -> None:
        """Find out before the training whether the row can be measured.

        Raises:
            UserError: If the data set is COCO without its official annotations, as with labels from elsewhere.
        """
        file = dataset.root / "annotations" / _COCO_TRUTH
        if self.key == "coco" and not file.is_file():
            raise UserError(f"{file}: no such file, and {self.name} is measured against it; put it there")

    def metrics(self, measured: Mapping[str, Any]) -> dict[str, float | None]:
        """The row's columns, 0 to 1; None for sizes that no object has.

        Args:
            measured: What metrics.json of val.py holds.

        Raises:
            UserError: If COCO's numbers are not those by the official annotations.
        """
        if self.key != "coco":
            return {name: measured[key] for name, key in _YOLOV5_METRICS.items()}
        coco = measured["coco"]
        if coco["truth"] != _COCO_TRUTH:
            raise UserError(
                f"{self.name}: COCO's numbers were measured against {coco['truth']}, and the row needs {_COCO_TRUTH}, "
                "which does not fit, see above; restore the official files"
            )
        return {name: coco[name] for name in self.table.metrics}

    def facts(self) -> dict[str, Any]:
        """What row.json says besides the metrics; a row.json that says something else is not of this row."""
        return {
            "row": self.name,
            "scale": self.scale,
            "data": self.table.dataset,
            **{key: value for key, value in self.training().items() if key != "data"},
            **self._evaluation(),
        }

    def _evaluation(self) -> dict[str, Any]:
        """The options of val.py that make the row comparable with the published one."""
        return {"iou_thres": _NMS_IOU[self.key], "published_pads": True}


def find_recipe(row: str, scale: str = "full", results: Path = RESULTS) -> Recipe:
    """The recipe of a row.

    Args:
        row: For example coco:yolov5n-ak5.
        scale: One of `SCALES`.
        results: Where the runs of rows are.

    Raises:
        UserError: If there is no such row.
    """
    known = [recipe for key in PUBLISHED for recipe in recipes(key, scale, results)]
    for recipe in known:
        if recipe.name == row:
            return recipe
    raise UserError(f"--row {row}: no such row; known are {', '.join(recipe.name for recipe in known)}")


def recipes(key: str, scale: str = "full", results: Path = RESULTS) -> list[Recipe]:
    """The recipes of all rows of a table."""
    return [Recipe(key, row, scale, results) for row in PUBLISHED[key].rows]


def shown(path: Path) -> str:
    """A path as a user would type it in the program's folder."""
    return str(path.relative_to(PROGRAM_ROOT) if path.is_relative_to(PROGRAM_ROOT) else path)


def _flags(options: Mapping[str, Any]) -> list[str]:
    flags = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    return [word for flag, value in flags.items() for word in ([flag] if value is True else [flag, str(value)])]
