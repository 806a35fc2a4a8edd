import re

from benchmarks.goals import goals_table


def op_row(
    layer="yolov5n.1", batch=1, n=5, forward=9.0, total=9.0, provider="auto", ms=10.0, spread=1, shift=0, run="a"
):
    return {
        "layer": layer,
        "batch": str(batch),
        "n": str(n),
        "provider": provider,
        "forward_speedup": str(forward) if provider == "auto" else "",
        "total_speedup": str(total) if provider == "auto" else "",
        "total_ms": str(ms),
        "spread": str(spread),
        "shift": str(shift),
        "device": "cpu",
        "run": run,
        "channels": "16",
        "height": "320",
        "width": "320",
        "out": "32",
    }


def lines_of(table):
    cells = [re.split(r" *\| *", line.strip("| ")) for line in table.splitlines()[2:]]
    return {name: (goal, measured) for name, goal, measured in cells}


def test_what_falls_short_is_named():
    rows = [
        op_row(forward=4, total=4.999),
        op_row(forward=30, total=20, batch=8, n=13),
        op_row("yolov5s.7", batch=8, n=9, forward=1.5, total=1.96),
        op_row("yolov5s.5", forward=2, total=3),
    ]
    lines = lines_of(goals_table(rows, []))
    assert lines["layer yolov5n.1, forward, against `published`"] == ("at least 4 times as fast", "4 to 30")
    assert lines["layer yolov5n.1, forward + backward, against `published`"] == (
        "at least 5 times as fast",
        "4.99 to 20; 4.99 at yolov5n.1 x 1, N = 5",
    )
    assert lines["every other layer, forward, against `published`"] == ("at least 1.5 times as fast", "1.5 to 2")
    assert lines["every other layer, forward + backward, against `published`"][1] == (
        "1.96 to 3; 1.96 at yolov5s.7 x 8, N = 9"
    )


def test_only_the_model_in_float32_counts():
    def model_row(model="yolov5n-ak5", task="train", batch=4, time=1.3, peak=1.01, amp="off", compiled="False"):
        usual = {"compile": compiled, "imgsz": "640"}
        ratios = {"time_ratio": str(time), "peak_ratio": str(peak)}
        return {"model": model, "task": task, "batch": str(batch), "amp": amp, "device": "cpu", **usual, **ratios}

    rows = [
        model_row(),
        model_row(time=7, amp="bf16"),
        model_row(time=7, compiled="True"),
        model_row("yolov5n", time=1),
        model_row(task="inference", batch=1, time=1.08),
        model_row(task="inference", batch=8, time=1.006),
    ]
    lines = lines_of(goals_table([], rows))
    against = "against the plain model"
    assert lines == {
        f"yolov5n-ak5, time of a training step, {against}": ("at most 1.25 times", "1.3 with images: 4"),
        f"yolov5n-ak5, time of inference, {against}": (
            "at most 1.15 times",
            "1.08 with images: 1, 1.01 with images: 8",
        ),
        f"yolov5n-ak5, peak memory of a training step, {against}": ("at most 1.1 times", "1.01 with images: 4"),
    }


def test_line_through_the_points():
    rows = [op_row(n=n, ms=3 + 2 * n, run="cost") for n in (1, 3, 5)]
    lines = lines_of(goals_table(rows, []))
    assert lines["forward + backward against N, yolov5n.1, images: 1"] == ("a line", "3 + 2 N ms, R² 1.0000")


def test_growth_with_offsets_is_of_each_run_by_itself():
    rows = [op_row(layer, ms=ms, spread=spread, run=layer) for layer, ms, spread in (
        ("yolov5n.1", 10, 0), ("yolov5n.1", 11, 10), ("yolov5n.1", 12.5, 100),
        ("yolov5n.3", 20, 0), ("yolov5n.3", 19, 10),
        ("yolov5n.5", 4, 0), ("yolov5n.5", 5, 10),
    )]  # fmt: skip
    rows += [
        op_row(provider="conv", ms=ms, spread=spread, run="yolov5n.1") for ms, spread in ((6, 100), (8, 10), (8, 0))
    ]
    rows += [op_row(provider="published", ms=ms, spread=spread, run="yolov5n.1") for ms, spread in ((50, 0), (90, 100))]
    rows += [op_row(ms=ms, spread=spread, run="small") | {"height": "64"} for ms, spread in ((1, 0), (9, 10))]
    lines = lines_of(goals_table(rows, []))
    name = "{}, forward + backward, offsets of {} px of each cell by itself"
    assert lines[name.format("layer yolov5n.1", "10, 100")] == (
        "as long as without",
        "`auto` 1.1, 1.25; `published` -, 1.8; `conv` 1, 0.75",
    )
    assert lines[name.format("every other layer", "10")] == ("as long as without", "`auto` 0.95 to 1.25")


def test_nothing_is_said_without_rows_or_of_a_gpu():
    assert goals_table([], []) == ""
    assert goals_table([op_row() | {"device": "0"}], []) == ""
