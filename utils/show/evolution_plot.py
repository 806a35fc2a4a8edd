"""The plot of a search for hyperparameters."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.show.figures import ACCENT, new_figure, save_figure, tidy

_COLUMNS = 5


def save_evolution_plot(file: Path, values: Mapping[str, Sequence[float]], fitness: Sequence[float], best: int) -> None:
    """Write one small plot for each hyperparameter: its value against the fitness of that training.

    Args:
        file: .png or .jpg.
        values: Name -> the value in each training; at least one name.
        fitness: Of each training.
        best: Index of the best one, which is marked and named in the title.
    """
    rows = math.ceil(len(values) / _COLUMNS)
    figure = new_figure(3 * _COLUMNS, 2.6 * rows)
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes, (name, tried) in zip(grid.flat, values.items(), strict=False):
        axes.scatter(tried, fitness, s=14, color=ACCENT, alpha=0.5, linewidths=0)
        axes.scatter(tried[best], fitness[best], s=60, color="#d97706", marker="*", zorder=3)
        tidy(axes, title=f"{name} {tried[best]:.3g}")
        axes.locator_params(nbins=4)
    for axes in grid.flat[len(values) :]:
        axes.remove()
    for axes in grid[:, 0]:
        axes.set_ylabel("Fitness")
    save_figure(figure, file, dpi=120)
