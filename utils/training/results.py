"""results.csv: one row an epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.errors import UserError
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

    Raises:
        UserError: If a line of the file is not a row of results; see `read_rows`.
    """
    kept = [line for number, line in read_rows(file) if number < epoch]
    row = [epoch, *(values[column] for column in COLUMNS[1:])]
    write_text(file, "\n".join([_line(COLUMNS), *kept, _line([f"{value:.5g}" for value in row])]) + "\n")


def read_rows(file: Path) -> list[tuple[int, str]]:
    """The epoch and the text of every row, after checking them.

    Args:
        file: results.csv, which need not exist.

    Raises:
        UserError: If a line does not hold a number for every column; names the line.
    """
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()[1:] if file.exists() else []
    rows = []
    for number, line in enumerate(lines, 2):
        cells = line.split(",")
        try:
            rows.append((int(cells[0]), line))
            numbers = [float(cell) for cell in cells]
        except ValueError:
            numbers = []
        if len(numbers) != len(COLUMNS):
            raise UserError(
                f"{file}:{number}: found {line.strip()[:60]!r}, expected an epoch and {len(COLUMNS) - 1} numbers; "
                "delete or correct that line"
            )
    return rows


def _line(cells: Sequence[str]) -> str:
    return ",".join(f"{cell:>20}" for cell in cells)
