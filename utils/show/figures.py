"""Figures without global state: matplotlib's objects on the Agg canvas, never pyplot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from utils.files import atomic_write
from utils.show.draw import colour_of

INK = "#1f2933"
ACCENT = "#1d4ed8"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure whose parts arrange themselves without overlap.

    Args:
        width: Inches.
        height: Inches.
    """
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, file: Path, *, dpi: int = 250) -> None:
    """Write a figure in the format of the file's suffix, atomically.

    Args:
        figure: What to write.
        file: .png or .jpg.
        dpi: Pixels per inch.
    """
    with atomic_write(file) as stream:
        figure.savefig(stream, format=file.suffix.lstrip("."), dpi=dpi)


def tidy(axes: Axes, *, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Titles, a light grid behind the data, and no frame at the top and on the right."""
    axes.set_title(title, color=INK, fontweight="bold", loc="left")
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(ylabel, color=INK)
    axes.tick_params(colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color("#9aa5b1")
    axes.grid(True, color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)


def legend_beside(axes: Axes, handles: Sequence[Any], labels: Sequence[str], *, columns: int = 1) -> None:
    """A legend on the right of the axes, its texts taken literally: a class may be called `_x` or `$`."""
    legend = axes.legend(
        handles,
        [f"entry {i}" for i in range(len(labels))],
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0.0,
        frameon=False,
        fontsize=9,
        ncols=columns,
    )
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_parse_math(False)
        text.set_text(label)
        text.set_color(INK)


def rgb_of(cls: int) -> tuple[float, float, float]:
    """The colour in which boxes of a class are drawn, as matplotlib wants it: red, green, blue in 0..1."""
    blue, green, red = colour_of(cls)
    return red / 255, green / 255, blue / 255
