import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import cv2
import pytest

from benchmarks import drawn, recipes, rows, tables
from benchmarks.published_tables import PUBLISHED
from benchmarks.recipes import SCALES, find_recipe
from benchmarks.rows import make_row, read_row
from models import Model
from models.summary import cost
from utils.config import parse_options
from utils.data.coco_json import read_category_names
from utils.data.converters import visdrone
from utils.data.labels import read_labels
from utils.errors import Terminated, UserError
from utils.evaluation.options import ValOptions
from utils.files import PROGRAM_ROOT, write_yaml
from utils.training.hyp import load_hyp
from utils.training.options import TrainOptions, parse_train_options
from utils.training.run_files import describe_run

ROWS = [f"{key}:{row.model}" for key, table in PUBLISHED.items() for row in table.rows]


@pytest.fixture(scope="module")
def counted():
    """Cost is computed once for each model, it takes half a second."""
    known = {}

    def count(recipe):
        key = recipe.name
        if key not in known:
            known[key] = cost(Model(f"{recipe.published.model}.yaml", nc=recipe.table.nc), fused=True)
        return known[key]

    return count


@pytest.fixture
def show(counted, monkeypatch, capsys):
    """Cells of the rows that the command prints, by model, one table after the other."""

    def call(results, *argv):
        monkeypatch.setattr(tables, "count", counted)
        tables.main(list(argv), results)
        parts = capsys.readouterr().out.split("### ")[1:]
        return [
            {
                line.split(" | ")[0][2:]: line[2:-2].split(" | ")
                for line in part.splitlines()
                if line.startswith("| yolo")
            }
            for part in parts
        ]

    return call


def fill(recipe, percent=(12.34, 5, 99.96, 0, 1, 2), **changes):
    """Write the file of a row."""
    fractions = (None if value is None else value / 100 for value in percent)
    metrics = dict(zip(recipe.table.metrics, fractions, strict=False))
    recipe.folder.mkdir(parents=True)
    content = {**recipe.facts(), "weights": "train/weights/best.pt", "metrics": metrics, **changes}
    (recipe.folder / rows.ROW_FILE).write_text(json.dumps(content))


def test_sizes_and_costs_are_the_published_ones_with_one_exception(show, tmp_path):
    coco, visdrone_table = show(tmp_path)
    cells = [cell for table in (coco, visdrone_table) for row in table.values() for cell in row[-2:]]
    assert len(cells) == 2 * len(ROWS) == 34
    off = []
    for printed, ours in (cell.split(" / ") for cell in cells):
        digits = len(printed.partition(".")[2])
        if f"{float(ours.removesuffix(' (*)')):.{digits}f}" != printed:
            off.append((printed, ours))
    assert off == [("5.5", "5.437 (*)")]
    assert sum("(*)" in cell for cell in cells) == 1
    assert coco["yolov5n-ak5"][-1] == "1.65 / 1.651017"
    assert visdrone_table["yolov5n-ak14"][-2:] == ["5.3 / 5.300", "2.2 / 2.202399"]


def test_the_exception_is_explained_and_the_explanation_holds(counted, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "count", counted)
    text = tables.full_table("coco", tmp_path)
    assert text.count("(*) yolov5n-ak13: ") == 1
    assert "(5.52)" in text
    assert cost(Model("yolov5n-ak13.yaml", nc=80)).gflops == pytest.approx(5.52, abs=0.005)


def test_a_new_disagreement_would_be_marked(monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "count", lambda recipe: tables.Cost(1, 1_651_017, 4.123))
    text = tables.full_table("coco", tmp_path)
    assert "| 4.1 / 4.123 | 1.65 / 1.651017 |" in text
    assert "(*) yolov5n-ak3: does not agree with the published figure." in text


def test_published_figures_are_never_ours(show, tmp_path):
    for table in show(tmp_path):
        for _model, _n, *metrics in (row[:-2] for row in table.values()):
            assert all(re.fullmatch(r"\d+(\.\d)? / -", cell) for cell in metrics)
    coco, visdrone_table = PUBLISHED.values()
    assert show(tmp_path)[0]["yolov5s-ak7"][2:8] == [f"{x} / -" for x in coco.rows[-1].metrics]
    assert coco.metrics[0] == "AP" and coco.rows[-1].metrics[0] == "40.4"
    assert visdrone_table.rows[2].metrics == ("40", "28", "26.9", "13.7")


def test_a_row_is_filled_by_a_run_for_exactly_it(show, tmp_path, caplog):
    fill(find_recipe("coco:yolov5n-ak5", results=tmp_path))
    fill(find_recipe("visdrone:yolov5n-ak5", "smoke", tmp_path))
    fill(find_recipe("visdrone:yolov5n-ak3", results=tmp_path), epochs=3)
    coco, visdrone_table = show(tmp_path)
    assert coco["yolov5n-ak5"][2:8] == [
        "31 / 12.3", "48.8 / 5.0", "32.6 / 100.0", "14.6 / 0.0", "34.1 / 1.0", "43.2 / 2.0",
    ]  # fmt: skip
    others = [row for row in (*coco.values(), *visdrone_table.values()) if row is not coco["yolov5n-ak5"]]
    assert all(cell.endswith("/ -") for row in others for cell in row[2:-2])
    [warning] = caplog.messages
    assert "visdrone:yolov5n-ak3" in warning and "epochs is 3, and the row has 300" in warning


def test_what_coco_could_not_average_is_a_dash(show, tmp_path):
    fill(find_recipe("coco:yolov5n", results=tmp_path), percent=(1, 1, 1, None, 1, 1))
    assert show(tmp_path)[0]["yolov5n"][5] == "13.5 / -"


@pytest.mark.parametrize("key", PUBLISHED)
def test_the_readme_has_the_tables(key, counted, monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "count", counted)
    readme = (PROGRAM_ROOT / "README.md").read_text(encoding="utf-8")
    for line in tables.full_table(key, tmp_path).splitlines():
        assert re.search(re.escape(line).replace(r"/\ \-", r"/\ (-|\d+\.\d)"), readme), line


@pytest.mark.parametrize("text", ["{", "[]", "{}", "metrics"])
def test_a_damaged_row(tmp_path, text):
    recipe = find_recipe("coco:yolov5n", results=tmp_path)
    recipe.folder.mkdir(parents=True)
    text = json.dumps({**recipe.facts(), "metrics": {"AP": 0.5}}) if text == "metrics" else text
    (recipe.folder / rows.ROW_FILE).write_text(text)
    with pytest.raises(UserError, match=re.escape(str(recipe.folder / rows.ROW_FILE))):
        read_row(recipe)


def test_the_smoke_table_is_marked_and_needs_detections(tmp_path, counted, monkeypatch, capsys):
    monkeypatch.setattr(tables, "count", counted)
    recipe = find_recipe("visdrone:yolov5n-ak5", "smoke", tmp_path)
    fill(recipe, percent=(30, 20, 10, 5))
    tables.main(["--row", recipe.name, "--scale", "smoke"], tmp_path)
    out = capsys.readouterr().out
    assert "### Smoke test of visdrone:yolov5n-ak5" in out
    assert "| yolov5n-ak5 | **smoke** | 5 | 30.0 | 20.0 | 10.0 | 5.0 | 3.822 | 1.556307 |" in out
    assert "13.7" not in out
    nothing = find_recipe("visdrone:yolov5n", "smoke", tmp_path)
    fill(nothing, percent=(0, 0, 0, 0))
    with pytest.raises(UserError, match=r"mAP is 0\.0"):
        tables.smoke_table(nothing)


@pytest.mark.parametrize("scale", SCALES)
def test_the_commands_understand_their_options(scale):
    for name in ROWS:
        recipe = find_recipe(name, scale)
        key, model = name.split(":")
        train = parse_train_options(recipe.train_command()[1:])
        val = parse_options(ValOptions, recipe.val_command()[1:], prog="val.py", description="")
        assert (train.cfg, train.weights, train.data) == (f"{model}.yaml", "", recipes.shown(recipe.data))
        assert (train.epochs, train.imgsz) == ((300, 640) if scale == "full" else (20, 160))
        assert val.weights == (f"{train.project}/{train.name}/weights/best.pt",)
        assert (val.data, val.imgsz, val.iou_thres) == (train.data, train.imgsz, 0.65 if key == "coco" else 0.6)
        assert val.published_pads
        assert Path(val.project).parts[:2] == ("runs", "tables")
        assert ("smoke" in Path(val.project).parts) == (scale == "smoke")


def test_commands_of_a_row(capsys):
    tables.main(["--row", "coco:yolov5n-ak5"])
    *notes, data, train, val = capsys.readouterr().out.splitlines()
    assert all(note.startswith("# ") for note in notes)
    assert data == "python -m utils.data.prepare coco --splits train val"
    assert train.startswith("python train.py --cfg yolov5n-ak5.yaml --data data/coco.yaml ")
    assert "--epochs 300 --batch-size 16 --imgsz 640" in train
    assert val.startswith("python val.py --weights runs/tables/coco/yolov5n-ak5/train/weights/best.pt ")


def test_mistakes():
    with pytest.raises(UserError, match=r"--row coco:yolov5n-ak6: no such row; known are coco:yolov5n, .*-ak14"):
        tables.main(["--row", "coco:yolov5n-ak6"])
    for flags in (["--run"], ["--scale", "smoke"]):
        with pytest.raises(UserError, match="need --row"):
            tables.main(flags)


def test_works_as_a_script():
    command = [sys.executable, "benchmarks/tables.py", "--row", "x:y"]
    done = subprocess.run(command, cwd=PROGRAM_ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: --row x:y: no such row; known are coco:yolov5n")


class Commands:
    """Stands for the commands: remembers them and leaves the files that they would."""

    def __init__(self, recipe, metrics):
        self.recipe, self.metrics, self.called = recipe, metrics, []

    def __call__(self, arguments):
        self.called.append(arguments[0])
        value = {flag: arguments[i + 1] for i, flag in enumerate(arguments) if flag.startswith("--")}
        if arguments[0] == "-m":
            (self.recipe.data.parent / "images").mkdir(parents=True)
            write_yaml(self.recipe.data, {"train": "images", "val": "images", "names": ["a"]})
            return
        folder = Path(value["--project"]) / value["--name"]
        (folder / "weights").mkdir(parents=True)
        if arguments[0] == "train.py":
            (folder / "weights" / "last.pt").touch()
            options = TrainOptions(**self.recipe.training(), device="0", workers=3)
            describe_run(folder, options, load_hyp(options.hyp))
        else:
            assert value["--weights"] == str(self.recipe.folder / "train" / "weights" / "best.pt")
        (folder / "metrics.json").write_text(json.dumps(self.metrics))


YOLOV5 = {"precision": 0.4, "recall": 0.3, "map50": 0.2, "map": 0.1}


@pytest.fixture
def commands(tmp_path, monkeypatch):
    recipe = find_recipe("visdrone:yolov5n-ak5", "smoke", tmp_path)
    fake = Commands(recipe, YOLOV5)
    monkeypatch.setattr(rows, "_run", fake)
    monkeypatch.setitem(recipes._DRAW, "visdrone", Path.mkdir)
    recipe.official.parent.mkdir(parents=True)
    return fake


def test_a_row_is_made_once(commands):
    recipe = commands.recipe
    assert read_row(recipe) == {}
    make_row(recipe)
    make_row(recipe)
    assert commands.called == ["-m", "train.py", "val.py"]
    assert read_row(recipe) == {"P": 0.4, "R": 0.3, "mAP50": 0.2, "mAP": 0.1}
    content = json.loads((recipe.folder / rows.ROW_FILE).read_text())
    assert content["row"] == "visdrone:yolov5n-ak5" and content["scale"] == "smoke"
    assert content["weights"] == "train/weights/best.pt"
    assert str(recipe.results) not in json.dumps(content)


def test_a_finished_training_is_not_repeated(commands):
    recipe = commands.recipe
    commands(recipe.train_command())
    commands.called.clear()
    make_row(recipe)
    assert commands.called == ["-m", "val.py"]


def test_an_interrupted_training_is_gone_on_with(commands, monkeypatch):
    recipe = commands.recipe
    make_row(recipe)
    (recipe.folder / rows.ROW_FILE).unlink()
    (recipe.folder / "train" / "metrics.json").unlink()
    called = []

    def resume(arguments):
        called.append(arguments)
        if arguments[0] == "val.py":
            commands(arguments)

    monkeypatch.setattr(rows, "_run", resume)
    make_row(recipe)
    assert called[0] == ["train.py", "--resume", str(recipe.folder / "train" / "weights" / "last.pt")]
    assert called[1][-1] == "val2"
    assert len(called) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "yolov5n.pt"}, r"weights is 'yolov5n\.pt', and the row visdrone:yolov5n-ak5 has ''"),
        ({"freeze": (3,)}, r"freeze is \[3\], and the row visdrone:yolov5n-ak5 has \[0\]"),
        ({"hyp": "hyp.scratch-low.yaml"}, "hyp is "),
    ],
)
def test_another_training_in_the_folder_is_refused(commands, change, message):
    recipe = commands.recipe
    commands(recipe.train_command())
    options = TrainOptions(**{**recipe.training(), **change})
    folder = recipe.folder / "train"
    describe_run(folder, options, load_hyp(options.hyp))
    with pytest.raises(UserError, match=re.escape(f"{folder / 'opt.yaml'}: ") + message):
        make_row(recipe)
    assert commands.called == ["train.py", "-m"]


def test_labels_of_coco_without_its_annotations_are_found_before_the_training(tmp_path, monkeypatch):
    recipe = find_recipe("coco:yolov5n", "smoke", tmp_path)
    commands = Commands(recipe, YOLOV5)
    monkeypatch.setattr(rows, "_run", commands)
    monkeypatch.setitem(recipes._DRAW, "coco", lambda folder: folder.mkdir(parents=True))
    with pytest.raises(UserError, match=r"annotations.instances_val2017\.json: no such file"):
        make_row(recipe)
    assert commands.called == ["-m"]


def test_a_row_of_coco_takes_the_numbers_by_the_official_annotations():
    recipe = find_recipe("coco:yolov5n")
    numbers = dict(zip(recipe.table.metrics, (0.1, 0.2, 0.3, 0.4, 0.5, None), strict=True))
    coco = {"rule": "coco", "truth": "instances_val2017.json", **numbers, "AR1": 0.9}
    assert recipe.metrics({**YOLOV5, "coco": coco}) == numbers
    with pytest.raises(UserError, match=r"against labels, and the row needs instances_val2017\.json"):
        recipe.metrics({**YOLOV5, "coco": {**coco, "truth": "labels"}})


def test_a_command_that_fails():
    with pytest.raises(UserError, match=r"missing\.py ended with status 2"):
        rows._run(["missing.py"])


def test_a_signal_ends_the_command_first(tmp_path):
    file = tmp_path / "pid"
    code = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(60)"
    timer = threading.Timer(0.1, stop_when_started, [file])
    timer.start()
    with pytest.raises(Terminated):
        rows._run(["-c", code, str(file)])
    timer.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


def stop_when_started(file):
    while not (file.exists() and file.read_text()):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)


def test_drawn_visdrone_is_official(tmp_path):
    drawn.draw_visdrone(tmp_path / "official", train=30, val=3)
    visdrone.arrange(tmp_path / "official")
    kinds = set()
    for part, count in (("train", 30), ("val", 3)):
        folder = tmp_path / "official" / f"VisDrone2019-DET-{part}"
        files = sorted((folder / "annotations").iterdir())
        assert len(files) == count == len(list((folder / "images").iterdir()))
        for file in files:
            table = [[int(x) for x in line.split(",")] for line in file.read_text().splitlines()]
            counted = [row for row in table if row[4]]
            assert {row[5] for row in table if not row[4]} == {0, 11}
            height, width = cv2.imread(str(folder / "images" / f"{file.stem}.jpg")).shape[:2]
            for left, top, w, h, *_ in counted:
                assert 0 <= left < left + w <= width and 0 <= top < top + h <= height
            labels = read_labels(folder / "labels" / file.name, 10)
            assert len(labels.boxes) == len(counted)
            kinds |= {row[5] for row in counted}
    assert kinds == set(range(1, 11))


def test_drawn_coco_is_official(tmp_path):
    drawn.draw_coco(tmp_path / "official", train=8, val=3)
    file = tmp_path / "official" / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    assert len(read_category_names(file)) == 80
    assert [category["id"] for category in content["categories"]][-1] == 90
    assert len(content["images"]) == 8
    for image in content["images"]:
        picture = cv2.imread(str(tmp_path / "official" / "train2017" / image["file_name"]))
        assert picture.shape[:2] == (image["height"], image["width"])
    crowds = [row for row in content["annotations"] if row["iscrowd"]]
    assert [row["image_id"] for row in crowds] == [4, 8]
    for row in crowds:
        assert (
            sum(row["segmentation"]["counts"])
            == 9 * row["bbox"][3] + (row["segmentation"]["size"][1] - 9) * row["bbox"][3]
        )
    ids = [row["id"] for row in content["annotations"]]
    assert ids == list(range(1, len(ids) + 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["visdrone:yolov5n-ak5", "coco:yolov5n"])
def test_all_steps_on_drawn_pictures(name, tmp_path, monkeypatch):
    monkeypatch.setitem(recipes._TRAINING["smoke"], "epochs", 1)
    monkeypatch.setitem(recipes._TRAINING["smoke"], "imgsz", 64)
    for key, draw in list(recipes._DRAW.items()):
        monkeypatch.setitem(recipes._DRAW, key, partial(draw, train=9, val=5))
    recipe = find_recipe(name, "smoke", tmp_path)
    make_row(recipe)
    assert read_row(recipe).keys() == set(recipe.table.metrics)
    assert (recipe.folder / "val" / "metrics.json").exists()
