"""How the cost of an AKConv grows with N, along a line, and with the offsets. A picture and the fits."""

import itertools
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from benchmarks.markdown import POINTS, SHIFT, SPREAD, Row, group, markdown, number, shape
from utils.show.figures import new_figure, save_figure, tidy

COLOURS = {"published": "#6b7280", "grid": "#9f580a", "auto": "#1d4ed8", "layer": "#7c3aed", "conv": "#0e9f6e"}
"""Providers that are shown."""

_OFFSETS = {"spread": ("o-", "each cell by itself"), "shift": ("s--", "shared by all cells")}
"""Ways in which offsets get large, how they are drawn, and what they are called."""

_USUAL = {"n": POINTS, "spread": SPREAD, "shift": SHIFT}

Series = dict[str, list[tuple[float, float]]]


def cost_section(rows: list[Row], picture: Path) -> list[str]:
    """Draw forward + backward of one layer against N and against the size of the offsets.

    Args:
        rows: Of the op, of one machine.
        picture: .png to write; its folder is made.

    Returns:
        A title, a table of the linear fits, the picture and a table of all layers against the offsets, as Markdown;
        without what there are no rows for.
    """
    parts = [*against_points(rows, picture), *against_offsets(rows)]
    return ["### Cost against N and against the offsets", *parts] if parts else []


def against_points(rows: list[Row], picture: Path) -> list[str]:
    """A table of the linear fits, and the picture; nothing if no N series is long enough for a line."""
    at_n, by_n = longest_series(rows, "n")
    fitted = {provider: points for provider, points in by_n.items() if len(points) > 2}
    if not fitted:
        return []
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    counts = sorted({n for points in by_n.values() for n, _ in points})
    lines = []
    for provider, points in by_n.items():
        fit = linear_fit(points) if provider in fitted else None
        label = None if fit else provider
        left.plot(*zip(*points, strict=True), "o", color=COLOURS[provider], label=label)
        if fit:
            slope, start, r2 = fit
            ends = np.array((0, counts[-1]))
            line = f"{provider}: {start:.1f} {slope:+.1f} N ms"
            left.plot(ends, start + slope * ends, color=COLOURS[provider], label=line)
            times = (number(str(dict(points).get(n, ""))) for n in counts)
            lines.append((f"`{provider}`", *times, f"{start:.3g}", f"{slope:.3g}", f"{r2:.4f}"))
    show(left, f"Against N: {at_n}", "points N", legend_columns=1)
    draw_offsets(right, rows)
    picture.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, picture, dpi=120)
    columns = [f"N = {n:g}" for n in counts]
    return [
        f"Milliseconds, forward + backward, layer {at_n}; and the line of least squares through them:",
        markdown(("provider", *columns, "at N = 0", "for each N", "R²"), lines),
        f"![Time of the op against N and against the size of the offsets](images/{picture.name})",
    ]


def draw_offsets(axes: Axes, rows: list[Row]) -> None:
    """Draw the layer with most sizes of offsets."""
    layer, named = "", set[str]()
    for axis, (line, _) in _OFFSETS.items():
        at, by_offsets = longest_series(rows, axis)
        layer = layer or at
        for provider, points in by_offsets.items():
            label = None if provider in named else provider
            named.add(provider)
            axes.plot(*zip(*points, strict=True), line, color=COLOURS[provider], label=label)
    if not layer:
        axes.set_axis_off()
        return
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_formatter("{x:g}")
    size = "standard deviation of the offsets, pixels\n(dashed: of what all cells of an image share)"
    show(axes, f"Against the offsets: {layer}", size, legend_columns=5)


def against_offsets(rows: list[Row]) -> list[str]:
    """Forward + backward of all layers against the size of the offsets: a title and a table, or nothing."""
    lines: dict[tuple[str, ...], dict[float, str]] = {}
    for axis, (_, kind) in _OFFSETS.items():
        for row in itertools.chain(*cases_along(rows, axis)):
            if row["provider"] in ("published", "auto"):
                names = row["run"], row["layer"], shape(row), kind, f"`{row['provider']}`"
                lines.setdefault(names, {})[float(row[axis])] = row["total_ms"]
    if not lines:
        return []
    sizes = sorted(set().union(*lines.values()))
    header = "layer", "shape", "offsets", "provider", *(f"{size:g} px" for size in sizes)
    cells = [(*names, *(number(times.get(size, "")) for size in sizes)) for (_, *names), times in lines.items()]
    title = (
        "Milliseconds, forward + backward, against the standard deviation of the offsets: of each cell by itself, or "
        f"of what all cells of an image share, around which each cell's has one of {SPREAD} px:"
    )
    return [title, markdown(header, cells)]


def cases_along(rows: list[Row], axis: str) -> list[list[Row]]:
    """Rows of one run, layer and shape, wherever they have several values on an axis and the usual ones on others."""
    others = _USUAL.keys() - {axis}
    shown = [row for row in rows if row["provider"] in COLOURS and all(row[key] == _USUAL[key] for key in others)]
    cases = group(shown, lambda row: (row["run"], row["layer"], shape(row))).values()
    return [case for case in cases if len({row[axis] for row in case}) > 1]


def longest_series(rows: list[Row], axis: str) -> tuple[str, Series]:
    """The case with most values along an axis, then of the largest map: its name, and (value, ms) of each provider."""

    def size(case: list[Row]) -> tuple[int, int]:
        return len({row[axis] for row in case}), int(case[0]["height"])

    longest = max(cases_along(rows, axis), key=size, default=[])
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
