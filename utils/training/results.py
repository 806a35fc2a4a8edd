"""results.csv: one row an epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.files import write_text

COLUMNS = (
    "epoch",
    "train/box_loss",
    "train/obj_loss",
    "train/cls_loss",
    "metrics/precision",
    "metrics/recall",
    "metrics/mAP_0.5",
    "metrics/mAP_0.5:0.95",
    "val/box_loss",
    "val/obj_loss",
    "val/cls_loss",
    "x/lr0",
    "x/lr1",
    "x/lr2",
)
"""YOLOv5's columns; x/lr0..2 are the learning rates of biases, decayed weights and norm weights."""


def record_epoch(file: Path, epoch: int, values: Mapping[str, float]) -> None:
    """Write the row of an epoch.

    Rows of this and of later epochs, which are there when a run continues from an older checkpoint, go. The file is
    replaced as a whole, so it is complete at any moment.

    Args:
        file: results.csv, which need not exist.
        epoch: From 0.
        values: A number for every column but `epoch`; NaN where there is none.
    """
    lines = file.read_text(encoding="utf-8").splitlines()[1:] if file.exists() else []
    kept = [line for line in lines if int(line.split(",")[0]) < epoch]
    row = [epoch, *(values[column] for column in COLUMNS[1:])]
    write_text(file, "\n".join([_line(COLUMNS), *kept, _line([f"{value:.5g}" for value in row])]) + "\n")


def _line(cells: Sequence[str]) -> str:
    return ",".join(f"{cell:>20}" for cell in cells)
