"""Rows of results as Markdown tables."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

Row = dict[str, str]
Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")

POINTS, SPREAD, SHIFT = "5", "1", "0"
"""N, spread and shift of the offsets in the main table of the op."""


def group(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items by key, both in the order in which they came."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *lines))


def number(text: str) -> str:
    """Three digits, or a dash for nothing."""
    return f"{float(f'{float(text):.3g}'):g}" if text else "-"


def pair(row: Row | None, name: str) -> str:
    """Forward / forward + backward."""
    return f"{number(row[f'forward_{name}'])} / {number(row[f'total_{name}'])}" if row else "-"


def shape(row: Row) -> str:
    """Images and layer of a row of the op."""
    return "{batch} x {channels} x {height} x {width} -> {out}".format(**row)


def origins(rows: list[Row]) -> str:
    """Threads, versions, code, date and settings of memory of all rows."""
    text = "CPU threads {threads}, torch {torch}, commit {commit} (code {code}), {date}"
    settings = (f", {row['malloc']}" if row.get("malloc") else "" for row in rows)  # older files do not say
    return "; ".join(sorted({text.format(**row) + told for row, told in zip(rows, settings, strict=True)}))


def _place(row: Row) -> tuple[str, int, int]:
    model, _, index = row["layer"].rpartition(".")
    return model, int(index), int(row["batch"])


def op_tables(rows: list[Row]) -> str:
    """The op: times and floors at one N, memory, and the speed-up at every N; only of runs with the usual offsets."""
    elsewhere = {row["run"] for row in rows if (row["spread"], row["shift"]) != (SPREAD, SHIFT)}  # about offsets
    usual = sorted((row for row in rows if row["run"] not in elsewhere), key=_place)
    providers = list(dict.fromkeys(row["provider"] for row in sorted(usual, key=lambda row: row["n"] != POINTS)))
    times, peaks, speedups = [], [], []
    for (layer, batch), own in group(usual, lambda row: (row["layer"], row["batch"])).items():
        runs = group((row for row in own if row["n"] == POINTS), lambda row: row["run"])
        # The figures of a line are to be compared, so they are of one run.
        one_run = {row["provider"]: row for row in max(runs.values(), key=len, default=[])}
        line = {provider: one_run.get(provider) for provider in providers}
        if any(line.values()):
            floor = pair(line.get("auto"), "floor_ms")
            times.append((layer, shape(own[0]), *(pair(row, "ms") for row in line.values()), floor))
            peaks.append((layer, shape(own[0]), *(number(row["peak_mb"]) if row else "-" for row in line.values())))
        settings = {row.get("malloc") for row in one_run.values()}  # page faults are not to look like an effect of N
        alike = (row for row in (*own, *one_run.values()) if not settings or row.get("malloc") in settings)
        auto = {row["n"]: row for row in alike if row["provider"] == "auto"}
        speedups.append((layer, batch, *(pair(auto.get(n), "speedup") for n in counts(usual))))
    columns = [f"`{provider}`" for provider in providers]
    tables = {
        f"Milliseconds, forward / forward + backward, N = {POINTS}; the floor is that of `auto`:": (
            ("layer", "shape", *columns, "floor"),
            times,
        ),
        "Peak memory of forward + backward, MB:": (("layer", "shape", *columns), peaks),
        "How many times faster than `published` is `auto`, forward / forward + backward:": (
            ("layer", "images", *(f"N = {n}" for n in counts(usual))),
            speedups,
        ),
    }
    return "\n\n".join(f"{title}\n\n{markdown(header, lines)}" for title, (header, lines) in tables.items() if lines)


def counts(rows: Iterable[Row]) -> list[str]:
    """All N, ascending."""
    return sorted({row["n"] for row in rows}, key=int)


def model_table(rows: list[Row]) -> str:
    """Whole models; a ratio is to the plain model in the same run."""
    lines = [
        (
            *(row["model"], row["task"], row["batch"], row["imgsz"], row["amp"], row["compile"].lower()),
            f"{number(row['total_ms'])} ({number(row['total_p20_ms'])} - {number(row['total_p80_ms'])})",
            *(number(row[name]) for name in ("time_ratio", "peak_mb", "peak_ratio", "first_ms")),
        )
        for row in rows
    ]
    names = (
        "model",
        "task",
        "images",
        "px",
        "amp",
        "compiled",
        "ms (p20 - p80)",
        "ratio",
        "peak MB",
        "ratio",
        "first ms",
    )
    return markdown(names, lines)


def loader_table(rows: list[Row]) -> str:
    """Milliseconds of each stage, and images a second and core."""
    parts = []
    for (data, imgsz, _), own in group(rows, lambda row: (row["data"], row["imgsz"], row["run"])).items():
        at = {(row["provider"], row["stage"]): row for row in own}
        stages = list(dict.fromkeys(row["stage"] for row in own))
        lines = []
        for provider in dict.fromkeys(row["provider"] for row in own):
            times = (number(at[provider, s]["total_ms"]) if (provider, s) in at else "-" for s in stages)
            whole = at[provider, "all"]
            lines.append((provider, number(whole["images_s"]), number(whole["speedup"]), *times))
        header = ("loader", "images/s", "speed-up", *(f"{stage.replace('_', ' ')}, ms" for stage in stages))
        parts += [f"{data}, {imgsz} px, one core:", markdown(header, lines)]
    return "\n\n".join(parts)


def coco_table(rows: list[Row]) -> str:
    """Seconds of both ways."""
    lines = []
    for (images, detections, _), own in group(rows, lambda r: (r["images"], r["detections"], r["run"])).items():
        at = {row["provider"]: row for row in own}
        times = [number(str(float(at[provider]["total_ms"]) / 1e3)) for provider in ("pycocotools", "project")]
        lines.append((images, detections, *times, number(at["project"]["speedup"])))
    return markdown(("images", "detections of each", "pycocotools, s", "project, s", "speed-up"), lines)


def nms_table(rows: list[Row]) -> str:
    """Milliseconds of both ways."""
    lines = []
    for (task, candidates, _), own in group(rows, lambda row: (row["task"], row["candidates"], row["run"])).items():
        at = {row["provider"]: row for row in own}
        times = [number(at[provider]["total_ms"]) for provider in ("baseline", "project")]
        lines.append((task, candidates, at["project"]["kept"], *times, number(at["project"]["speedup"])))
    return markdown(("task", "candidates", "kept", "`batched_nms`, ms", "project, ms", "speed-up"), lines)
