"""How the cost of an AKConv grows with N, along a line, and with the offsets. A picture and the fits."""

import itertools
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from benchmarks.markdown import POINTS, SHIFT, SPREAD, Row, group, markdown, number
from utils.show.figures import new_figure, save_figure, tidy

COLOURS = {"published": "#6b7280", "grid": "#9f580a", "auto": "#1d4ed8", "layer": "#7c3aed", "conv": "#0e9f6e"}
"""Providers that are shown."""

_OFFSETS = {"spread": ("o-", "each cell by itself"), "shift": ("s--", "shared by all cells")}
"""Ways in which offsets get large, how they are drawn, and what they are called."""

Series = dict[str, list[tuple[float, float]]]


def cost_section(rows: list[Row], picture: Path) -> list[str]:
    """Draw forward + backward of one layer against N and against the size of the offsets.

    Args:
        rows: Of the op, of one machine.
        picture: .png to write; its folder is made.

    Returns:
        A title, a table of the linear fits, the picture and a table of all layers against the offsets, as Markdown;
        nothing if there is only one N.
    """
    usual = {"n": POINTS, "spread": SPREAD, "shift": SHIFT}
    at_n, by_n = longest_series(rows, "n", usual)
    if not by_n:
        return []
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    lines = []
    for provider, points in by_n.items():
        left.plot(*zip(*points, strict=True), "o", color=COLOURS[provider], label=provider if len(points) < 3 else None)
        if len(points) < 3:
            continue
        slope, start, r2 = linear_fit(points)
        ends = np.array((0, points[-1][0]))
        left.plot(
            ends, start + slope * ends, color=COLOURS[provider], label=f"{provider}: {start:.1f} {slope:+.1f} N ms"
        )
        fit = (f"{start:.3g}", f"{slope:.3g}", f"{r2:.4f}")
        lines.append((f"`{provider}`", *(number(str(ms)) for _, ms in points), *fit))
    show(left, f"Against N: {at_n}", "points N", legend_columns=1)
    at_offsets = ""
    for axis, (line, _) in _OFFSETS.items():
        at, by_offsets = longest_series(rows, axis, usual)
        at_offsets = at_offsets or at
        for provider, points in by_offsets.items():
            label = provider if axis == "spread" else None
            right.plot(*zip(*points, strict=True), line, color=COLOURS[provider], label=label)
    right.set_xscale("symlog", linthresh=1)
    right.xaxis.set_major_formatter("{x:g}")
    size = "standard deviation of the offsets, pixels\n(dashed: of what all cells of an image share)"
    show(right, f"Against the offsets: {at_offsets}", size, legend_columns=5)
    picture.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, picture, dpi=120)
    columns = [f"N = {n:g}" for n, _ in next(iter(by_n.values()))]
    return [
        "### Cost against N and against the offsets",
        f"Milliseconds, forward + backward, layer {at_n}; and the line of least squares through them:",
        markdown(("provider", *columns, "at N = 0", "for each N", "R²"), lines),
        f"![Time of the op against N and against the size of the offsets](images/{picture.name})",
        *offsets_table(rows, usual),
    ]


def offsets_table(rows: list[Row], usual: Row) -> list[str]:
    """Forward + backward of all layers against the size of the offsets: a title and a table, or nothing.

    Args:
        rows: Of the op, of one machine.
        usual: Values on the axes that are not looked at.
    """
    lines: dict[tuple[str, ...], dict[float, str]] = {}
    for axis, (_, kind) in _OFFSETS.items():
        for row in itertools.chain(*cases_along(rows, axis, usual)):
            if row["provider"] in ("published", "auto"):
                names = row["layer"], row["batch"], kind, f"`{row['provider']}`"
                lines.setdefault(names, {})[float(row[axis])] = row["total_ms"]
    if not lines:
        return []
    sizes = sorted(set().union(*lines.values()))
    header = "layer", "images", "offsets", "provider", *(f"{size:g} px" for size in sizes)
    cells = [(*names, *(number(times.get(size, "")) for size in sizes)) for names, times in lines.items()]
    return ["Milliseconds, forward + backward, against the standard deviation of the offsets:", markdown(header, cells)]


def cases_along(rows: list[Row], axis: str, usual: Row) -> list[list[Row]]:
    """Rows of one run, layer and batch, wherever they have several values on an axis and the usual ones on others."""
    others = usual.keys() - {axis}
    shown = [row for row in rows if row["provider"] in COLOURS and all(row[key] == usual[key] for key in others)]
    cases = group(shown, lambda row: (row["run"], row["layer"], row["batch"])).values()
    return [case for case in cases if len({row[axis] for row in case}) > 1]


def longest_series(rows: list[Row], axis: str, usual: Row) -> tuple[str, Series]:
    """The case with most values along an axis: its name, and (value, ms) of each provider."""
    longest = max(cases_along(rows, axis, usual), key=lambda case: len({row[axis] for row in case}), default=[])
    if not longest:
        return "", {}
    by_provider = group(longest, lambda row: row["provider"])
    series = {p: sorted((float(row[axis]), float(row["total_ms"])) for row in own) for p, own in by_provider.items()}
    return "{layer}, images: {batch}".format(**longest[0]), series


def linear_fit(points: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Slope, value at 0 and R² of the line of least squares."""
    x, y = np.array(points).T
    slope, start = np.polyfit(x, y, 1)
    spread = ((y - y.mean()) ** 2).sum()
    r2 = 1 - ((y - start - slope * x) ** 2).sum() / spread if spread else 1.0
    return float(slope), float(start), float(r2)


def show(axes: Axes, title: str, xlabel: str, legend_columns: int) -> None:
    """What both halves of the picture have in common; the legend gets room above all lines."""
    tidy(axes, title=title, xlabel=xlabel, ylabel="forward + backward, ms")
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    axes.legend(frameon=False, fontsize=9, loc="upper left", ncols=legend_columns, columnspacing=1)
