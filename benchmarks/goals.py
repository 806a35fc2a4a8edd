"""What this project set out to reach on a CPU, and how far a machine gets, as a table."""

import math
from collections.abc import Callable, Iterable, Iterator

from benchmarks.cost import cases_along, linear_fit, longest_series
from benchmarks.markdown import SHIFT, SPREAD, Row, group, markdown, number

LAYER, MODEL = "yolov5n.1", "yolov5n-ak5"
"""The layer that profits most, and the model that is compared."""

_SPEEDUPS: list[tuple[str, Callable[[str], bool], float, float]] = [
    (f"layer {LAYER}", lambda layer: layer == LAYER, 4, 5),
    ("every other layer", lambda layer: layer != LAYER, 1.5, 2),
]
"""Layers, and how many times as fast as `published` they are to be, forward and forward + backward."""
_RATIOS = [
    ("train", "time_ratio", "time of a training step", 1.25),
    ("inference", "time_ratio", "time of inference", 1.15),
    ("train", "peak_ratio", "peak memory of a training step", 1.1),
]
"""How many times as much of something a model may take as the plain one."""
_OFFSETS = {"spread": "of each cell by itself", "shift": "that all cells share"}

Line = tuple[str, str, str]


def goals_table(op: list[Row], models: list[Row]) -> str:
    """Goals, and what was measured, from the smallest to the largest figure; speed-ups that fall short are named.

    Args:
        op: Rows of bench_akconv, of one machine.
        models: Rows of bench_model, of the same.

    Returns:
        A Markdown table, without goals that no row tells of; empty if there are none, or on a GPU.
    """
    op, models = ([row for row in rows if row["device"] == "cpu"] for rows in (op, models))
    lines = [*_speedups(op), *_ratios(models), *_line(op), *_offsets(op)]
    return markdown(("", "goal", "measured"), lines) if lines else ""


def _speedups(rows: list[Row]) -> Iterator[Line]:
    rows = [row for row in rows if row["provider"] == "auto" and row["total_speedup"]]
    for layers, chosen, forward, both in _SPEEDUPS:
        for passes, name, least in (("forward", "forward", forward), ("total", "forward + backward", both)):
            found = [(float(row[f"{passes}_speedup"]), row) for row in rows if chosen(row["layer"])]
            if found:
                short = [f"{_shown(value, least)} at {_case(row)}" for value, row in found if value < least]
                measured = "; ".join((_range((value for value, _ in found), least), *short))
                yield f"{layers}, {name}, against `published`", f"at least {least:g} times as fast", measured


def _case(row: Row) -> str:
    usual = {"spread": SPREAD, "shift": SHIFT}
    offsets = [f"{axis} {row[axis]} px" for axis, value in usual.items() if row[axis] != value]
    return ", ".join(("{layer} x {batch}".format(**row), f"N = {row['n']}", *offsets))


def _ratios(rows: list[Row]) -> Iterator[Line]:
    for task, column, name, most in _RATIOS:
        usual = {"model": MODEL, "task": task, "amp": "off", "compile": "False", "imgsz": "640"}
        own = [row for row in rows if row.items() >= usual.items()]
        if own:
            measured = ", ".join(f"{number(row[column])} with images: {row['batch']}" for row in own)
            yield f"{MODEL}, {name}, against the plain model", f"at most {most:g} times", measured


def _line(rows: list[Row]) -> Iterator[Line]:
    at_n, series = longest_series(rows, "n")
    if len(series.get("auto", ())) > 2:
        slope, start, r2 = linear_fit(series["auto"])
        yield f"forward + backward against N, {at_n}", "a line", f"{start:.3g} + {slope:.3g} N ms, R² {r2:.4f}"


def _offsets(rows: list[Row]) -> Iterator[Line]:
    largest = {
        layer: max(int(row["height"]) for row in own) for layer, own in group(rows, lambda r: r["layer"]).items()
    }
    rows = [row for row in rows if int(row["height"]) == largest[row["layer"]]]  # small maps fit caches
    for axis, kind in _OFFSETS.items():
        for layers, first in ((f"layer {LAYER}", True), ("every other layer", False)):
            growth: dict[str, dict[float, list[float]]] = {}
            for case in cases_along(rows, axis):
                if (case[0]["layer"] == LAYER) == first:
                    for provider, own in group(case, lambda row: row["provider"]).items():
                        for size, times in _growth(own, axis).items():
                            growth.setdefault(provider, {}).setdefault(size, []).append(times)
            if "auto" in growth:
                sizes = sorted(growth["auto"])
                measured = [
                    f"`{name}` {', '.join(_range(growth[name].get(size, ())) for size in sizes)}"
                    for name in ("auto", "published", "conv")
                    if name in growth
                ]
                shown = ", ".join(f"{size:g}" for size in sizes)
                what = f"{layers}, forward + backward, offsets of {shown} px {kind}"
                yield what, "as long as without", "; ".join(measured)


def _growth(rows: list[Row], axis: str) -> dict[float, float]:
    """How many times as long as with none offsets of each size take."""
    times = {float(row[axis]): float(row["total_ms"]) for row in rows}
    none = times.pop(0.0, None)
    return {size: ms / none for size, ms in times.items()} if none else {}


def _range(values: Iterable[float], least: float = -math.inf) -> str:
    ends = sorted(values)
    low, high = (_shown(value, least) for value in (ends[0], ends[-1])) if ends else ("-", "-")
    return low if low == high else f"{low} to {high}"


def _shown(value: float, least: float) -> str:
    """Three digits, never rounded up to what was to be reached."""
    text = number(str(value))
    return f"{math.floor(100 * value) / 100:.2f}" if value < least <= float(text) else text
