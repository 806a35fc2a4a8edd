"""Plots of an evaluation: precision-recall and confidence curves, confusion matrix."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import NDArray

from utils.evaluation.metrics import SMOOTHING, ClassCurves, smooth
from utils.show.figures import ACCENT, INK, legend_beside, new_figure, rgb_of, save_figure, tidy

LEGEND_CLASSES = 20
"""Up to this many classes get a line of their own colour and a place in the legend; more are drawn in grey."""

NUMBERED_CLASSES = 30
NAMED_CLASSES = 99


def save_curves(folder: Path, curves: ClassCurves, names: dict[int, str]) -> None:
    """Write PR_curve.png, F1_curve.png, P_curve.png and R_curve.png.

    Args:
        folder: Where the files go.
        curves: At least one class.
        names: Class index -> name.
    """
    labels = [names.get(int(cls), f"class{cls}") for cls in curves.classes]
    save_pr_curve(folder / "PR_curve.png", curves, labels)
    for letter, title, values in (
        ("F1", "F1", curves.f1_curve),
        ("P", "Precision", curves.p_curve),
        ("R", "Recall", curves.r_curve),
    ):
        save_confidence_curve(folder / f"{letter}_curve.png", curves, values, labels, title=title)


def save_pr_curve(file: Path, curves: ClassCurves, labels: list[str]) -> None:
    """Write the precision-recall curve at IoU 0.5 of each class and their mean.

    Args:
        file: .png
        curves: c classes.
        labels: c names.
    """
    figure = new_figure(9, 6)
    axes = figure.add_subplot()
    ap50 = curves.ap[:, 0]
    class_labels = [f"{label}  {ap:.3f}" for label, ap in zip(labels, ap50, strict=True)]
    mean_label = f"all classes  {ap50.mean():.3f} mAP@0.5"
    _class_lines(
        axes, curves, curves.pr_curve, curves.pr_curve.mean(0), class_labels=class_labels, mean_label=mean_label
    )
    tidy(axes, title="Precision - recall at IoU 0.5", xlabel="Recall", ylabel="Precision")
    save_figure(figure, file)


def save_confidence_curve(
    file: Path, curves: ClassCurves, values: NDArray[np.float64], labels: list[str], *, title: str
) -> None:
    """Write a quantity of each class over the confidence, and its smoothed mean with the best point marked.

    Args:
        file: .png
        curves: c classes.
        values: (c, 1000), over `curves.px`.
        labels: c names.
        title: The quantity.
    """
    figure = new_figure(9, 6)
    axes = figure.add_subplot()
    mean = smooth(values.mean(0), SMOOTHING)
    best = int(mean.argmax())
    mean_label = f"all classes  {mean[best]:.2f} at {curves.px[best]:.3f}"
    _class_lines(axes, curves, values, mean, class_labels=labels, mean_label=mean_label)
    axes.plot(curves.px[best], mean[best], "o", color=INK, markersize=8, markeredgecolor="white", zorder=4)
    tidy(axes, title=f"{title} - confidence at IoU 0.5", xlabel="Confidence", ylabel=title)
    save_figure(figure, file)


def _class_lines(
    axes: Axes,
    curves: ClassCurves,
    values: NDArray[np.float64],
    mean: NDArray[np.float64],
    *,
    class_labels: list[str],
    mean_label: str,
) -> None:
    many = len(class_labels) > LEGEND_CLASSES
    lines = [
        axes.plot(
            curves.px,
            row,
            color="#9aa5b1" if many else rgb_of(int(cls)),
            linewidth=0.8 if many else 1.4,
            alpha=0.6 if many else 0.9,
        )[0]
        for cls, row in zip(curves.classes, values, strict=True)
    ]
    (thick,) = axes.plot(curves.px, mean, color=ACCENT if many else INK, linewidth=3, zorder=3)
    shown, texts = ([], []) if many else (lines, class_labels)
    legend_beside(axes, [thick, *shown], [mean_label, *texts])
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.01)


def save_confusion_matrix(file: Path, matrix: NDArray[np.int64], names: dict[int, str]) -> None:
    """Write the confusion matrix, each column as fractions of the true class.

    Args:
        file: .png
        matrix: (nc + 1, nc + 1) counts, rows predicted, columns true, last the background.
        names: Class index -> name.
    """
    side = len(matrix)
    share = matrix / np.maximum(matrix.sum(0, keepdims=True), 1)
    figure = new_figure(12, 9)
    axes = figure.add_subplot()
    shades = LinearSegmentedColormap.from_list("ink", ["#ffffff", "#bfd3f6", "#5b8def", "#1d4ed8", "#0b2a6f"])
    image = axes.imshow(np.where(share < 0.005, np.nan, share), cmap=shades, vmin=0, vmax=1)
    if side - 1 < NUMBERED_CLASSES:
        size = float(np.clip(120 / side, 6, 14))
        for row, column in np.argwhere(share >= 0.005):
            value = share[row, column]
            colour = "white" if value > 0.45 else INK
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=size)
    tidy(axes, title="Confusion matrix, columns sum to 1", xlabel="True", ylabel="Predicted")
    axes.grid(False)
    axes.set_xticks(np.arange(side + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(side + 1) - 0.5, minor=True)
    axes.grid(True, which="minor", color="#e4e7eb", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    if side - 1 < NAMED_CLASSES:
        labels = [*(names.get(i, f"class{i}") for i in range(side - 1)), "background"]
        size = float(np.clip(400 / side, 5, 11))
        upright = max(map(len, labels)) * side > 90  # side by side they would run into each other
        axes.set_xticks(range(side), labels, rotation=90 if upright else 0, fontsize=size, parse_math=False)
        axes.set_yticks(range(side), labels, fontsize=size, parse_math=False)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    bar.outline.set_visible(False)
    save_figure(figure, file)
