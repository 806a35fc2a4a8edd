"""Picture of a comparison: by how much two runs differ, overall and in each class, and how sure that is."""

from pathlib import Path

from utils.evaluation.compare import BETTER, CONFIDENCE, MIN_IMAGES, WORSE, Comparison
from utils.show.figures import ACCENT, INK, legend_beside, new_figure, save_figure, tidy

MAX_CLASSES = 60
"""With more classes than this only those that differ most are drawn; without an interval none is."""

_COLOURS = {BETTER: ACCENT, WORSE: "#c2410c", "no clear difference": "#9aa5b1", "too few images": "#d5dae0"}


def save_comparison_plot(file: Path, comparison: Comparison) -> None:
    """Write a dot and an interval for the difference of mAP50-95, and below for each class.

    Args:
        file: .png
        comparison: What to draw.
    """
    judged = [row for row in comparison.per_class if row.map.interval]
    most = sorted(judged, key=lambda row: -abs(row.map.delta))[:MAX_CLASSES]
    rows = [("all, at IoU 0.5", comparison.map50), ("all", comparison.map)]
    rows += [(row.name, row.map) for row in sorted(most, key=lambda row: -row.map.delta)]
    figure = new_figure(9, max(3.0, 1.5 + 0.2 * len(rows)))
    axes = figure.add_subplot()
    dots = {}
    for place, (_, difference) in enumerate(rows):
        colour = _COLOURS[difference.verdict]
        if difference.interval:
            axes.plot(difference.interval, (place, place), color=colour, linewidth=2.5, solid_capstyle="round")
        (dots[difference.verdict],) = axes.plot(difference.delta, place, "o", color=colour, markersize=6)
    axes.axvline(0, color=INK, linewidth=1)
    axes.axhline(1.5, color="#9aa5b1", linewidth=0.8)
    tidy(axes, title="Change of mAP50-95, this run minus the other", xlabel=_xlabel(comparison, len(most), len(judged)))
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8, parse_math=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    legend_beside(axes, list(dots.values()), list(dots))
    save_figure(figure, file)


def _xlabel(comparison: Comparison, drawn: int, judged: int) -> str:
    notes = [f"{round(100 * CONFIDENCE)} % intervals over {comparison.images} images"]
    if drawn < judged:
        notes.append(f"{drawn} of {judged} classes that differ most")
    if judged < len(comparison.per_class):
        notes.append(f"{len(comparison.per_class) - judged} classes in fewer than {MIN_IMAGES} images left out")
    return "\n".join(notes)
