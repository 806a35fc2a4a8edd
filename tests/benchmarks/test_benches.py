import csv
import os
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks import bench_akconv, bench_coco, bench_loader, bench_model, bench_nms, render
from benchmarks.markdown import number
from utils.data.shapes import make_shapes
from utils.errors import UserError

DOC = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
ORIGIN = {"date", "device", "gpu", "cpu", "threads", "commit", "code", "python", "torch", "numpy", "numba", "triton"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    for name in ("copy_rate", "gemm_rate"):
        monkeypatch.setattr(bench_akconv, name, lambda device: 1e10)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def results(tmp_path):
    """A folder with tiny results of every benchmark."""
    folder = tmp_path / "results"
    op = ["--imgsz", "64", "--repeats", "1", "--layers", "1", "--batch", "2"]
    bench_akconv.main([*op, "--points", "3", "5", "6", "--out", str(folder / "akconv.csv")])
    for axis in ("spread", "shift"):
        file = folder / f"akconv-{axis}.csv"
        bench_akconv.main([*op, f"--{axis}", "0", "10", "--providers", "auto", "--out", str(file)])
    bench_model.main(
        ["--imgsz", "64", "--repeats", "1", "--batch", "1", "--train-batch", "2", "--out", str(folder / "model.csv")]
    )
    bench_nms.main(["--repeats", "1", "--candidates", "100", "2500", "--nc", "3", "--out", str(folder / "nms.csv")])
    bench_coco.main(["--repeats", "1", "--images", "30", "--detections", "12", "--out", str(folder / "coco.csv")])
    make_shapes(tmp_path / "shapes", train=2, val=1, test=1)
    data = tmp_path / "tiny.yaml"
    data.write_text("path: shapes\ntrain: images/train\nval: images/val\nnames: [a, b, c, d, e, f]\n")
    tiny = ["--data", str(data), "--imgsz", "64", "--images", "2", "--repeats", "1"]
    bench_loader.main([*tiny, "--out", str(folder / "loader.csv")])
    return folder


def rows_of(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_benchmark_writes_its_table_and_all_are_rendered(results, tmp_path, capsys):
    names = ("akconv", "model", "nms", "loader", "coco")
    op, model, nms, loader, coco = (rows_of(results / f"{name}.csv") for name in names)
    for row in (*op, *model, *nms, *loader, *coco):
        assert row.keys() >= ORIGIN
        assert 0 < float(row["total_p20_ms"]) <= float(row["total_ms"]) <= float(row["total_p80_ms"])
    assert {"published", "reference", "rows", "auto", "layer", "conv"} <= {row["provider"] for row in op}
    for row in op:
        assert all(
            float(row[f"{name}_{x}"]) > 0 for name in ("forward", "total") for x in ("ms", "speedup", "floor_ms")
        )
        assert float(row["peak_mb"]) > 0
        assert float(row["first_ms"]) > 0
    assert [row["task"] for row in model] == ["train", "train", "inference", "inference"]
    assert [float(row["time_ratio"]) for row in model[::2]] == [1, 1]
    assert {row["stage"] for row in loader} == {*bench_loader._PROJECT, "all", "rest"}
    assert [row["provider"] for row in coco] == ["pycocotools", "project"]
    assert [row["kept"] for row in nms[::2]] == [row["kept"] for row in nms[1::2]]

    doc = tmp_path / "docs" / "performance.md"
    doc.parent.mkdir()
    doc.write_text(DOC.read_text())
    render.render(results, doc)
    text = doc.read_text()
    assert render.NO_GPU in text
    assert "\n### Goals\n\n" in text
    assert "\n| layer yolov5n.1, forward + backward, against `published` | at least 5 times as fast | " in text
    for kind in ("of each cell by itself", "that all cells share"):
        assert f"offsets of 10 px {kind} | as long as without | `auto` " in text
    assert "| yolov5n.1 | 2 x 16 x 32 x 32 -> 32 |" in text
    assert "images/akconv-cost.png" in text
    assert (doc.parent / "images" / "akconv-cost.png").stat().st_size > 10_000
    for axis, kind in (("spread", "each cell by itself"), ("shift", "shared by all cells")):
        times = " | ".join(number(row["total_ms"]) for row in rows_of(results / f"akconv-{axis}.csv"))
        assert f"| yolov5n.1 | 2 x 16 x 32 x 32 -> 32 | {kind} | `auto` | {times} |" in text
    render.render(results, doc)
    assert doc.read_text() == text


def test_each_case_is_compared_with_its_own_baseline(tmp_path):
    flags = ["--imgsz", "64", "--repeats", "1", "--layers", "21", "--providers", "published", "rows"]
    twice = ["--points", "3", "5", "3", "--shift", "0", "10", "--batch", "4", "4"]
    bench_akconv.main([*flags, *twice, "--out", str(tmp_path / "akconv.csv")])
    rows = rows_of(tmp_path / "akconv.csv")
    cases = [(n, shift) for n in ("3", "5") for shift in ("0", "10")]
    assert [(row["n"], row["shift"], row["provider"]) for row in rows] == [
        (*case, provider) for case in cases for provider in ("published", "rows")
    ]
    for baseline, row in zip(rows[::2], rows[1::2], strict=True):
        assert float(baseline["total_speedup"]) == 1
        ratio = float(baseline["total_ms"]) / float(row["total_ms"])
        assert float(row["total_speedup"]) == pytest.approx(ratio, rel=0.002)


def test_figures_of_a_line_are_of_one_run(tmp_path):
    flags = ["--imgsz", "64", "--repeats", "1", "--layers", "21"]
    for run, providers in {"akconv-a": ("published", "rows", "auto"), "akconv-b": ("published", "auto")}.items():
        bench_akconv.main([*flags, "--providers", *providers, "--out", str(tmp_path / f"{run}.csv")])
    doc = tmp_path / "performance.md"
    doc.write_text(f"{render.BEGIN}\n{render.END}")
    render.render(tmp_path, doc)
    rows = rows_of(tmp_path / "akconv-a.csv")
    times = " | ".join(f"{number(row['forward_ms'])} / {number(row['total_ms'])}" for row in rows)
    assert f"-> 128 | {times} |" in doc.read_text()


def test_speedups_of_a_line_are_of_one_setting_of_memory(tmp_path, monkeypatch):
    flags = ["--imgsz", "64", "--repeats", "1", "--layers", "21", "--providers", "published", "auto"]
    bench_akconv.main([*flags, "--points", "3", "5", "--out", str(tmp_path / "akconv-a.csv")])
    monkeypatch.setenv("MALLOC_TOP_PAD_", "4096")
    bench_akconv.main([*flags, "--points", "7", "--out", str(tmp_path / "akconv-b.csv")])
    doc = tmp_path / "performance.md"
    doc.write_text(f"{render.BEGIN}\n{render.END}")
    render.render(tmp_path, doc)
    [line] = [line for line in doc.read_text().splitlines() if line.startswith("| yolov5n.21 | 4 | ")]
    assert [cell.strip() == "-" for cell in line.split("|")[3:-1]] == [False, False, True]


def test_pages_name_settings_of_memory_and_take_files_without(tmp_path, monkeypatch):
    file, doc = tmp_path / "akconv.csv", tmp_path / "performance.md"
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MALLOC_TOP_PAD_", "4096")
    flags = ["--imgsz", "64", "--repeats", "1", "--layers", "21", "--providers", "published", "auto"]
    bench_akconv.main([*flags, "--out", str(file)])
    doc.write_text(f"{render.BEGIN}\n{render.END}")
    render.render(tmp_path, doc)
    assert ", MALLOC_TOP_PAD_=4096." in doc.read_text()
    rows = [{name: text for name, text in row.items() if name != "malloc"} for row in rows_of(file)]
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    render.render(tmp_path, doc)
    assert "MALLOC" not in doc.read_text()


def test_what_needs_too_much_memory_is_named(capsys):
    flags = ["--imgsz", "64", "--repeats", "1", "--layers", "21", "--providers", "published", "conv"]
    with pytest.raises(UserError, match="nothing was measured"):
        bench_akconv.main([*flags, "--memory-limit", "0"])
    out = capsys.readouterr().out
    assert "published: left out at yolov5n.21, N 5, batch 4: it would take" in out
    assert "conv: left out" in out


def test_a_provider_that_is_not_available_is_named(capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.akconv_cases.PROVIDERS", ("triton", "conv"))
    bench_akconv.main(["--imgsz", "64", "--repeats", "1", "--layers", "21", "--providers", "triton", "conv"])
    assert "triton: left out, " in capsys.readouterr().out


def test_first_calls_are_measured_before_a_model_makes_them(monkeypatch):
    order = []
    for name in ("layers_of", "available"):
        monkeypatch.setattr(bench_akconv, name, lambda *_, name=name: order.append(name) or {})
    with pytest.raises(UserError):
        bench_akconv.main([])
    assert order == ["available", "layers_of"]


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"magic.*published"):
        bench_akconv.main(["--providers", "magic"])
    for bench in (bench_akconv, bench_model):
        with pytest.raises(UserError, match="--imgsz 70: expected a multiple of 32 for yolov5n"):
            bench.main(["--imgsz", "70"])
        with pytest.raises(UserError, match="--imgsz 96: expected a multiple of 64 for yolov5n6"):
            bench.main(["--imgsz", "96", "--models", "yolov5n6.yaml"])
        with pytest.raises(UserError, match="is a folder"):
            bench.main(["--out", str(tmp_path)])
        (tmp_path / "a file").touch()
        with pytest.raises(UserError, match=r"b\.csv: cannot be written"):
            bench.main(["--out", str(tmp_path / "a file" / "b.csv")])
        with pytest.raises(UserError, match="--threads 100000: expected at most 1024"):
            bench.main(["--threads", "100000"])
    with pytest.raises(UserError, match=r"--layers: \[2, 99\] are no AKConv, expected some of \[1, 3"):
        bench_akconv.main(["--layers", "1", "2", "99"])
    with pytest.raises(UserError, match="--points 2000: expected at most 1024"):
        bench_akconv.main(["--points", "3", "2000"])
    with pytest.raises(UserError, match="--spread: found inf, expected a finite number"):
        bench_akconv.main(["--spread", "inf"])
    with pytest.raises(UserError, match="nothing was measured"):
        bench_model.main(["--train-batch", "0", "--batch", "0"])
    with pytest.raises(UserError, match="--batch: found 0, expected at least 1"):
        bench_akconv.main(["--batch", "4", "0"])
    with pytest.raises(UserError, match="no results"):
        render.main(["--results", str(tmp_path)])
    (tmp_path / "nms.csv").write_text("gpu,cpu,task\n,a machine,val\n")
    with pytest.raises(UserError, match="without the column"):
        render.main(["--results", str(tmp_path)])
    with pytest.raises(UserError, match="no such folder"):
        render.main(["--results", str(tmp_path / "nowhere")])
    for damaged in ("gpu,cpu,task\n,a machine,val\n,a mach", "gpu,cpu,task\n,a machine,val\ngpu,cpu,task\n"):
        (tmp_path / "nms.csv").write_text(damaged)
        with pytest.raises(UserError, match=r"nms.csv:3: found . cells, expected a row of 3"):
            render.main(["--results", str(tmp_path)])
    (tmp_path / "nms.csv").write_bytes("gpu,cpu\n,Größe\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"nms.csv: no CSV file"):
        render.main(["--results", str(tmp_path)])


def test_results_that_cannot_be_shown(results, tmp_path, caplog):
    others = tmp_path / "others"
    others.mkdir()
    doc = tmp_path / "performance.md"
    doc.write_text(DOC.read_text())
    shutil.copy(results / "akconv-shift.csv", others)
    render.render(others, doc)
    assert "no file of bench_akconv has the default offsets only" in caplog.text
    assert "### The op" not in doc.read_text()
    assert "shared by all cells | `auto` |" in doc.read_text()
    total = rows_of(results / "akconv.csv")[0]["total_ms"]
    lines = (results / "akconv.csv").read_text().splitlines()
    left_out = [line for line in lines if not line.startswith("published,yolov5n.1,16,32,32,32,2,6,")]
    assert len(left_out) == len(lines) - 1
    (others / "akconv.csv").write_text("\n".join(left_out))
    render.render(others, doc)
    rows = {(row["provider"], row["n"]): number(row["total_ms"]) for row in rows_of(results / "akconv.csv")}
    assert f"| `auto` | {rows['auto', '3']} | {rows['auto', '5']} | {rows['auto', '6']} |" in doc.read_text()
    assert "| `published` |" not in doc.read_text().partition("at N = 0")[2].partition("![")[0]  # no line through two
    (others / "akconv.csv").write_text((results / "akconv.csv").read_text().replace(f",{total},", ",many,"))
    with pytest.raises(UserError, match=r"should be a number.*many"):
        render.render(others, doc)


def test_coco_numbers_that_differ_are_an_error(monkeypatch):
    flags = ["--repeats", "1", "--images", "10", "--detections", "20", "--nc", "3"]
    monkeypatch.setattr(
        bench_coco, "ours", lambda annotations, found: [1e-6 + n for n in bench_coco.official(annotations, found)]
    )
    with pytest.raises(UserError, match="10 images: found"):
        bench_coco.main(flags)


def test_baseline_of_nms_agrees_where_corners_are_whole():
    decoded = bench_nms.predictions(500, 4, 0.25)
    boxes = bench_nms.box_convert(decoded[0, :, :4], "cxcywh", "xyxy")
    assert torch.equal(boxes, boxes.round())
    scores = decoded[0, :, 4:5] * decoded[0, :, 5:]
    positive = scores[scores > 0]
    assert len(positive) == len(positive.unique()) == 1000
    assert (positive > 0.25).all()
