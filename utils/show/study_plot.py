"""The plot of a study: what accuracy costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from utils.show.figures import legend_beside, new_figure, rgb_of, save_figure, tidy


class Point(Protocol):
    """One model at one size of the images."""

    @property
    def imgsz(self) -> int:
        """Pixels of the longer side."""

    @property
    def map(self) -> float:
        """mAP50-95 in 0..1."""

    @property
    def milliseconds(self) -> float:
        """For one image."""


def save_study_plot(file: Path, curves: Mapping[str, Sequence[Point]]) -> None:
    """Write the mAP of each model over the time for one image, each point with its size.

    Args:
        file: .png or .jpg.
        curves: Name of the model -> its points.
    """
    figure = new_figure(9, 6)
    axes = figure.add_subplot()
    lines = []
    for index, points in enumerate(curves.values()):
        places = [(point.milliseconds, 100 * point.map) for point in points]
        lines += axes.plot(*zip(*places, strict=True), "o-", color=rgb_of(index), linewidth=2, markersize=5)
        for point, place in zip(points, places, strict=True):
            axes.annotate(
                str(point.imgsz),
                place,
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=rgb_of(index),
            )
    tidy(axes, title="Accuracy and speed by image size", xlabel="Inference and NMS, ms per image", ylabel="mAP50-95, %")
    axes.set_xlim(left=0)
    axes.margins(y=0.08)
    legend_beside(axes, lines, list(curves))
    save_figure(figure, file)
