"""val.py as its users run it: as a command, and as a function."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from models import Model
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.errors import UserError
from val import REFUSED, ValOptions, main, run

ROOT = Path(__file__).resolve().parents[1]
NAMES = {0: "rod", 1: "star"}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights that finds something everywhere."""
    torch.manual_seed(2)
    model = Model("yolov5n.yaml", nc=2, names=NAMES)
    with torch.no_grad():
        for conv in model.head.m:
            conv.bias.view(model.head.na, -1)[:, 4:] += 5
            conv.weight *= 30
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_checkpoint(path, Checkpoint(dict(model.cfg), NAMES, model.stride.tolist(), state))
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three images of odd sizes, one without objects."""
    random = np.random.default_rng(1)
    for folder in ("images", "labels"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for i, (w, h) in enumerate([(90, 61), (64, 64), (50, 101)]):
        cv2.imwrite(str(tmp_path / f"set/images/{i}.png"), random.integers(0, 255, (h, w, 3), np.uint8))
    (tmp_path / "set/labels/0.txt").write_text("0 0.5 0.5 0.4 0.6\n1 0.2 0.3 0.2 0.2\n")
    (tmp_path / "set/labels/1.txt").write_text("1 0.5 0.5 0.9 0.9\n")
    file = tmp_path / "set.yaml"
    file.write_text(yaml.safe_dump({"path": str(tmp_path / "set"), "train": "images", "val": "images", "names": NAMES}))
    return file


def options(checkpoint: Path, dataset: Path, **changes) -> ValOptions:
    settings = {"imgsz": 96, "workers": 0, "device": "cpu", "project": str(dataset.parent / "runs")} | changes
    return ValOptions(weights=(str(checkpoint),), data=str(dataset), **settings)


def val(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "val.py"), *map(str, arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8", env=env)


def test_the_command_writes_everything_asked_for(tmp_path: Path, checkpoint: Path, dataset: Path):
    flags = "--imgsz 90 --batch 2 --device cpu --workers 0 --max-det 4 --save-txt --save-conf --save-json"
    done = val(tmp_path, "--weights", checkpoint, "--data", dataset, *flags.split())
    assert done.returncode == 0, done.stderr
    out = tmp_path / "runs/val/exp"
    assert {path.name for path in out.iterdir()} >= {
        *("metrics.json", "labels", "tiny_predictions.json", "confusion_matrix.png"),
        *("val_batch0_labels.jpg", "val_batch0_pred.jpg", "val_batch1_labels.jpg", "val_batch1_pred.jpg"),
    }
    for text in ("--imgsz 90 is not a multiple of the stride 32: using 96", "3 label files in", f"Results in {out}"):
        assert text in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[:3] for row in rows if row and row[0] in ("all", "rod", "star")] == [
        ["all", "3", "3"],
        ["rod", "3", "1"],
        ["star", "3", "2"],
    ]
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics) == {"precision", "recall", "map50", "map", "per_class", "speed_ms", "images", "instances"}
    assert (metrics["images"], metrics["instances"]) == (3, 3)
    predictions = json.loads((out / "tiny_predictions.json").read_text())
    assert len(predictions) == 12
    assert {row["image_id"] for row in predictions} == {0, 1, 2}
    assert {row["category_id"] for row in predictions} <= {0, 1}
    rows = [[float(cell) for cell in line.split()] for line in (out / "labels/2.txt").read_text().splitlines()]
    assert len(rows) == 4
    assert all(len(row) == 6 and min(row[1:]) >= 0 and max(row[1:]) <= 1 for row in rows)
    assert [row[5] for row in rows] == sorted((row[5] for row in rows), reverse=True)


def test_a_second_run_gets_its_own_folder_and_the_same_numbers(checkpoint: Path, dataset: Path):
    first, second = (run(options(checkpoint, dataset)) for _ in range(2))
    assert first.metrics == second.metrics
    assert sorted(path.name for path in (dataset.parent / "runs").iterdir()) == ["exp", "exp2"]


def test_one_class(checkpoint: Path, dataset: Path):
    evaluation = run(options(checkpoint, dataset, single_cls=True))
    assert [(c.name, c.instances) for c in evaluation.metrics.per_class] == [("item", 3)]


def test_speed_task_draws_nothing(checkpoint: Path, dataset: Path):
    evaluation = run(options(checkpoint, dataset, task="speed", save_json=True))
    assert all(value > 0 for value in evaluation.speed_ms.values())
    assert [path.name for path in (dataset.parent / "runs/exp").iterdir()] == ["metrics.json"]


def test_images_without_any_label(checkpoint: Path, dataset: Path):
    for file in (dataset.parent / "set/labels").iterdir():
        file.unlink()
    metrics = run(options(checkpoint, dataset)).metrics
    assert (metrics.images, metrics.instances, metrics.map) == (3, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--weights: found nothing, expected one .pt file"),
        (["--weights", "a.pt", "b.pt"], "--weights: found 2 files, expected one"),
        (["--weights", "a.pt", "--task", "study"], "--task study is not implemented"),
        (["--weights", "a.pt", "--iou-thres", "1.5"], "--iou-thres 1.5: expected a value from 0 to 1"),
        (["--weights", "a.pt", "--batch-size", "0"], "--batch-size 0: expected at least 1"),
        *[([flag], f"{flag} is not supported: {reason}") for flag, reason in REFUSED.items()],
    ],
)
def test_refusals(arguments: list[str], message: str):
    with pytest.raises(UserError) as error:
        main(arguments)
    assert message in str(error.value)


def test_half_precision_needs_a_gpu(checkpoint: Path, dataset: Path):
    with pytest.raises(UserError, match="--half needs a CUDA GPU"):
        run(options(checkpoint, dataset, half=True))


def test_another_number_of_classes_leaves_no_folder_behind(checkpoint: Path, dataset: Path):
    content = yaml.safe_load(dataset.read_text()) | {"names": ["a", "b", "c"]}
    dataset.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"tiny\.pt knows 2 classes but .*set\.yaml has 3"):
        run(options(checkpoint, dataset))
    assert not (dataset.parent / "runs").exists()


def test_a_mistake_is_one_line_on_stderr(tmp_path: Path):
    done = val(tmp_path, "--weights", "missing.pt", "--device", "cpu", "--data", "nowhere.yaml")
    assert done.returncode == 1
    assert done.stderr.startswith("error: nowhere.yaml: no such file")
    assert done.stderr.count("\n") == 1


def test_labels_of_the_data_set_are_never_overwritten(checkpoint: Path, dataset: Path):
    before = {path: path.read_bytes() for path in dataset.parent.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="could be overwritten"):
        run(options(checkpoint, dataset, project=str(dataset.parent), name="set", exist_ok=True, save_txt=True))
    assert {path: path.read_bytes() for path in dataset.parent.rglob("*") if path.is_file()} == before


def test_what_cannot_work_is_refused_before_the_model_is_read(tmp_path: Path, dataset: Path):
    (tmp_path / "file").touch()
    for changes, message in (({"imgsz": 1_000_000}, "at most 8192"), ({"project": str(tmp_path / "file")}, "a file")):
        with pytest.raises(UserError, match=message):
            run(options(tmp_path / "missing.pt", dataset, **changes))


def test_coco_numbers_of_other_classes_are_left_out(checkpoint: Path, dataset: Path, caplog):
    pytest.importorskip("pycocotools")
    (dataset.parent / "set/annotations").mkdir()
    content = {"images": [{"id": i} for i in range(3)], "annotations": [], "categories": [{"id": 1, "name": "rod"}]}
    (dataset.parent / "set/annotations/instances_images.json").write_text(json.dumps(content))
    run(options(checkpoint, dataset, save_json=True))
    assert "no COCO evaluation: " in caplog.text
    assert "category 0 is 'missing' there and 'rod' in the data set" in caplog.text
