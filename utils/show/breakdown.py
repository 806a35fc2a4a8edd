"""Picture of an error breakdown: what each kind of error costs."""

from pathlib import Path

from utils.evaluation.breakdown import Breakdown
from utils.evaluation.error_kinds import ERRORS, MEANINGS
from utils.show.figures import ACCENT, INK, new_figure, save_figure, tidy

_XLABEL = "dAP50: AP50 gained if all errors of this kind, and no others, were repaired"
_GREY = "#9aa5b1"


def save_breakdown_plot(file: Path, breakdown: Breakdown) -> None:
    """Write a bar for each kind of error, as long as the AP50 that its repair would add.

    Args:
        file: .png
        breakdown: What to draw.
    """
    numbers = dict(zip(ERRORS, breakdown.counts.sum(0).tolist(), strict=True))
    rows = [
        (f"{kind.name.lower()}\n{MEANINGS[kind]}", breakdown.gain(kind), f"{numbers[kind]:,} errors", ACCENT)
        for kind in ERRORS
    ]
    rows += [
        ("all false positives", breakdown.gain_false_positives, "", _GREY),
        ("all false negatives", breakdown.gain_misses, "", _GREY),
    ]
    figure = new_figure(9, 6)
    axes = figure.add_subplot()
    names, gains, texts, colours = zip(*rows, strict=True)
    bars = axes.barh(range(len(rows)), gains, color=colours, height=0.6)
    labels = [f" {gain:+.3f}   {text}" for gain, text in zip(gains, texts, strict=True)]
    axes.bar_label(bars, labels, color=INK, fontsize=9)
    tidy(axes, title=f"What errors cost, of an AP50 of {breakdown.mean_ap50:.3f}", xlabel=_XLABEL)
    axes.set_yticks(range(len(rows)), names, fontsize=9)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlim(min(0.0, *gains), max(0.01, *gains) * 1.35)
    save_figure(figure, file)
