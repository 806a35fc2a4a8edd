"""Plots of a training run: its labels before the first epoch, its curves after the last."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from utils.errors import UserError
from utils.show.figures import ACCENT, INK, legend_beside, new_figure, rgb_of, save_figure, tidy

OVERLAID_BOXES = 1000
NAMED_CLASSES = 30

_QUANTITIES = ("x", "y", "width", "height")
_SHADES = LinearSegmentedColormap.from_list("ink", ["#eaf1fe", "#5b8def", "#1d4ed8", "#0b2a6f"])

_RESULT_COLUMNS = (
    ("train/box_loss", "train/obj_loss", "train/cls_loss", "metrics/precision", "metrics/recall"),
    ("val/box_loss", "val/obj_loss", "val/cls_loss", "metrics/mAP_0.5", "metrics/mAP_0.5:0.95"),
)


def save_labels_plot(file: Path, labels: NDArray[np.float32], names: dict[int, str]) -> None:
    """Write a summary of a data set's labels: classes, box shapes, where the boxes are and how large.

    Args:
        file: .jpg
        labels: (n, 5) class, cx, cy, w, h as fractions of the image.
        names: Class index -> name.
    """
    cls, boxes = labels[:, 0].astype(int), labels[:, 1:]
    figure = new_figure(10, 10)
    (top_left, top_right), (bottom_left, bottom_right) = figure.subplots(2, 2)
    nc = len(names)
    top_left.bar(range(nc), np.bincount(cls, minlength=nc)[:nc], color=[rgb_of(i) for i in range(nc)])
    tidy(top_left, title="Instances of each class", ylabel="Instances")
    top_left.grid(False, axis="x")
    if nc <= NAMED_CLASSES:
        texts = [names.get(i, f"class{i}") for i in range(nc)]
        upright = max(map(len, texts), default=0) * nc > 50  # side by side they would run into each other
        top_left.set_xticks(range(nc), texts, rotation=90 if upright else 0, parse_math=False)
    else:
        top_left.set_xlabel("Class", color=INK)
    _concentric_boxes(top_right, cls, boxes)
    _density(bottom_left, boxes[:, 0], boxes[:, 1])
    tidy(bottom_left, title="Centres", xlabel="x", ylabel="y")
    bottom_left.invert_yaxis()  # as in the image
    _density(bottom_right, boxes[:, 2], boxes[:, 3])
    tidy(bottom_right, title="Sizes", xlabel="width", ylabel="height")
    save_figure(figure, file, dpi=150)


def _concentric_boxes(axes: Axes, cls: NDArray[np.int64], boxes: NDArray[np.float32]) -> None:
    shown = slice(0, OVERLAID_BOXES)
    patches = [Rectangle((0.5 - w / 2, 0.5 - h / 2), w, h) for w, h in boxes[shown, 2:].tolist()]
    colours = [rgb_of(int(c)) for c in cls[shown]]
    axes.add_collection(PatchCollection(patches, facecolor="none", edgecolor=colours, linewidth=0.7, alpha=0.6))
    tidy(axes, title=f"Box shapes, the first {min(len(boxes), OVERLAID_BOXES)}")
    axes.grid(False)
    axes.set(xlim=(0, 1), ylim=(1, 0), aspect="equal", xticks=[], yticks=[])


def _density(axes: Axes, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
    axes.hist2d(x, y, bins=50, range=((0, 1), (0, 1)), cmin=1, cmap=_SHADES)
    axes.set_aspect("equal")


def save_labels_correlogram(file: Path, labels: NDArray[np.float32]) -> None:
    """Write the histograms of x, y, width and height, and below the diagonal those of each pair.

    Args:
        file: .jpg
        labels: (n, 5) class, cx, cy, w, h as fractions of the image.
    """
    boxes = labels[:, 1:]
    n = len(_QUANTITIES)
    figure = new_figure(10, 10)
    grid = figure.subplots(n, n, squeeze=False)
    for row in range(n):
        for column in range(n):
            axes = grid[row, column]
            if column > row:
                axes.remove()
                continue
            if row == column:
                axes.hist(boxes[:, row], bins=50, range=(0, 1), color=ACCENT)
                axes.set_xlim(0, 1)
            else:
                _density(axes, boxes[:, column], boxes[:, row])
            tidy(
                axes,
                xlabel=_QUANTITIES[column] if row == n - 1 else "",
                ylabel=("count" if row == column else _QUANTITIES[row]) if column == 0 else "",
            )
    save_figure(figure, file, dpi=150)


def save_results_plot(folder: Path) -> Path:
    """Write results.png: losses and metrics over the epochs, raw and smoothed, of every results*.csv in a folder.

    Args:
        folder: A training run.

    Returns:
        The file written.

    Raises:
        UserError: If there is no results*.csv, or one lacks a column or holds something that is not a number.
    """
    files = sorted(folder.glob("results*.csv"))
    if not files:
        raise UserError(f"{folder}: no results*.csv there; give the folder of a training run")
    tables = [(file.stem, _read_results(file)) for file in files]
    figure = new_figure(14, 6)
    grid = figure.subplots(len(_RESULT_COLUMNS), len(_RESULT_COLUMNS[0]))
    for axes, name in zip(grid.flat, (name for row in _RESULT_COLUMNS for name in row), strict=True):
        handles = []
        for index, (_, table) in enumerate(tables):
            colour = ACCENT if len(tables) == 1 else rgb_of(index)
            x, y = table["epoch"], table[name]
            axes.plot(x, y, color=colour, alpha=0.45, linewidth=1, marker=".", markersize=4)
            (line,) = axes.plot(x, gaussian_smooth(y, 3.0), color=colour, linewidth=2.2)
            handles.append(line)
        tidy(axes, title=name)
    if len(tables) > 1:
        legend_beside(grid[0, -1], handles, [stem for stem, _ in tables])
    for axes in grid[-1]:
        axes.set_xlabel("Epoch", color=INK)
    file = folder / "results.png"
    save_figure(figure, file, dpi=200)
    return file


def _read_results(file: Path) -> dict[str, NDArray[np.float64]]:
    with file.open(newline="", encoding="utf-8") as stream:
        rows = [[cell.strip() for cell in row] for row in csv.reader(stream) if row]
    header = rows[0] if rows else []
    wanted = ("epoch", *(name for row in _RESULT_COLUMNS for name in row))
    missing = [name for name in wanted if name not in header]
    if missing:
        raise UserError(f"{file}:1: no column {', '.join(missing)}; expected a results.csv as train.py writes it")
    table = np.empty((len(rows) - 1, len(header)))
    for number, row in enumerate(rows[1:], start=2):
        try:
            table[number - 2] = [float(cell) for cell in row]
        except ValueError as error:
            raise UserError(f"{file}:{number}: expected {len(header)} numbers, found {','.join(row)}") from error
    return {name: table[:, header.index(name)] for name in wanted}


def gaussian_smooth(values: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """A curve weighted with a Gaussian; near the ends and beside gaps (NaN) only the values there are count.

    Args:
        values: (n,)
        sigma: Standard deviation in steps.

    Returns:
        (n,)
    """
    if len(values) == 0:
        return values
    radius = int(4 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    present = np.isfinite(values)
    total = np.convolve(np.pad(np.where(present, values, 0.0), radius), kernel, mode="valid")
    weight = np.convolve(np.pad(present.astype(float), radius), kernel, mode="valid")
    return np.divide(total, weight, out=np.full(len(values), np.nan), where=weight > 0)
