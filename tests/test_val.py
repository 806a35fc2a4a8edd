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
from tests.onnx_files import reshaping_detector
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.errors import UserError
from val import ValOptions, main, run, study

ROOT = Path(__file__).resolve().parents[1]
NAMES = {0: "rod", 1: "star"}


def make_checkpoint(path: Path, names: dict[int, str] = NAMES, seed: int = 2) -> Path:
    """A small model with random weights that finds something everywhere."""
    torch.manual_seed(seed)
    model = Model("yolov5n.yaml", names=names)
    with torch.no_grad():
        for conv in model.head.m:
            conv.bias.view(model.head.na, -1)[:, 4:] += 5
            conv.weight *= 30
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_checkpoint(path, Checkpoint(dict(model.cfg), names, model.stride.tolist(), state))
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pt")


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pt", seed=3)


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
    return ValOptions(**{"weights": (str(checkpoint),), "data": str(dataset)} | settings)


def files_of(run_dir: Path) -> set[str]:
    return {path.name for path in run_dir.iterdir()}


def val(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "val.py"), *map(str, arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8", env=env)


def test_the_command_writes_everything_asked_for(tmp_path: Path, checkpoint: Path, dataset: Path):
    flags = "--imgsz 90 --batch 2 --device cpu --workers 0 --max-det 4 --save-txt --save-conf --save-json"
    done = val(tmp_path, "--weights", checkpoint, "--data", dataset, *flags.split())
    assert done.returncode == 0, done.stderr
    out = tmp_path / "runs/val/exp"
    assert files_of(out) >= {
        *("metrics.json", "labels", "tiny_predictions.json", "confusion_matrix.png", "per_class.csv", "per_size.csv"),
        *("matches.npz", "breakdown.json", "breakdown.csv", "breakdown.png"),
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
    assert metrics["rule"] == "yolov5" and metrics["coco"]["truth"] == "labels"
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


def test_published_pads_move_boxes_of_oddly_padded_images(checkpoint: Path, dataset: Path):
    places = []
    for published in (False, True):
        run(options(checkpoint, dataset, imgsz=128, name=f"pads-{published}", save_json=True, published_pads=published))
        rows = json.loads((dataset.parent / f"runs/pads-{published}/tiny_predictions.json").read_text())
        places.append(np.array([row["bbox"] for row in rows]))
    moved = np.abs(places[0] - places[1])
    assert 0 < moved.max() <= 1


def test_one_class(checkpoint: Path, dataset: Path):
    evaluation = run(options(checkpoint, dataset, single_cls=True))
    assert [(c.name, c.instances) for c in evaluation.metrics.per_class] == [("item", 3)]


def test_speed_task_draws_nothing(checkpoint: Path, dataset: Path):
    evaluation = run(options(checkpoint, dataset, task="speed"))
    assert all(value > 0 for value in evaluation.speed_ms.values())
    assert files_of(dataset.parent / "runs/exp") == {"metrics.json"}


def test_speed_of_several_models_is_measured_one_by_one(checkpoint: Path, other_checkpoint: Path, dataset: Path):
    arguments = ["--weights", checkpoint, other_checkpoint, "--data", dataset, "--task", "speed", "--imgsz", 64]
    main([*map(str, arguments), "--device", "cpu", "--workers", "0", "--project", str(dataset.parent / "runs")])
    runs = [json.loads(file.read_text()) for file in sorted((dataset.parent / "runs").glob("*/metrics.json"))]
    assert len(runs) == 2 and runs[0]["precision"] != runs[1]["precision"]


def test_images_without_any_label(checkpoint: Path, dataset: Path):
    for file in (dataset.parent / "set/labels").iterdir():
        file.unlink()
    metrics = run(options(checkpoint, dataset)).metrics
    assert (metrics.images, metrics.instances, metrics.map) == (3, 0, 0)


def test_neither_labels_nor_detections(checkpoint: Path, dataset: Path, caplog):
    for file in (dataset.parent / "set/labels").iterdir():
        file.unlink()
    metrics = run(options(checkpoint, dataset, conf_thres=1.0)).metrics
    assert (metrics.images, metrics.instances, metrics.precision, metrics.map) == (3, 0, 0, 0)
    assert "no labels in the 3 evaluated images: the metrics are all zero" in caplog.text


def test_a_folder_without_images_is_named(checkpoint: Path, dataset: Path):
    for file in (dataset.parent / "set/images").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"set/images: "):
        run(options(checkpoint, dataset))


def test_several_models_are_evaluated_as_one(checkpoint: Path, other_checkpoint: Path, dataset: Path):
    several = (str(checkpoint), str(other_checkpoint))
    alone, other, both = (
        run(options(checkpoint, dataset, weights=weights, task="speed")).metrics
        for weights in (several[:1], several[1:], several)
    )
    assert both not in (alone, other)


def test_models_of_other_classes_are_no_ensemble(tmp_path: Path, checkpoint: Path, dataset: Path):
    other = make_checkpoint(tmp_path / "other.pt", {0: "rod", 1: "moon"})
    with pytest.raises(
        UserError, match=r"other\.pt and .*tiny\.pt know different classes \(class 1 is 'moon' and 'star'\)"
    ):
        run(options(checkpoint, dataset, weights=(str(checkpoint), str(other))))
    assert not (dataset.parent / "runs").exists()


def test_test_time_augmentation(checkpoint: Path, dataset: Path):
    plain, augmented = (run(options(checkpoint, dataset, augment=on, task="speed")) for on in (False, True))
    assert augmented.metrics != plain.metrics
    assert augmented.metrics.images == 3


def test_hybrid_labels_are_all_there_and_certain(checkpoint: Path, dataset: Path, caplog):
    evaluation = run(options(checkpoint, dataset, save_hybrid=True, save_conf=True, max_det=7, conf_thres=0.0))
    assert "--save-hybrid: the labels are among the detections, so the metrics mean nothing" in caplog.text
    assert evaluation.metrics.map50 == pytest.approx(0.995)
    for image, shape in (("0", (61, 90)), ("1", (64, 64)), ("2", (101, 50))):
        text = (dataset.parent / f"runs/exp/labels/{image}.txt").read_text()
        rows = np.array([[float(cell) for cell in line.split()] for line in text.splitlines()])
        assert len(rows) == 7
        certain = rows[rows[:, 5] == 1, :5]
        file = dataset.parent / f"set/labels/{image}.txt"
        labels = np.loadtxt(file, ndmin=2) if file.exists() else np.zeros((0, 5))
        assert certain[np.argsort(certain[:, 0])] == pytest.approx(labels, abs=1 / min(shape))


def test_comparison_with_an_earlier_run(checkpoint: Path, other_checkpoint: Path, dataset: Path, caplog):
    caplog.set_level("INFO")
    run(options(checkpoint, dataset))
    earlier = dataset.parent / "runs/exp"
    run(options(other_checkpoint, dataset, compare=str(earlier)))
    assert files_of(dataset.parent / "runs/exp2") - files_of(earlier) == {
        *("comparison.json", "comparison.csv", "comparison.png"),
    }
    assert "Compared with the other run on the same 3 images" in caplog.text


def test_nothing_of_an_earlier_run_stays_beside_the_new_results(checkpoint: Path, dataset: Path):
    run(options(checkpoint, dataset, name="base"))
    base, folder = dataset.parent / "runs/base", dataset.parent / "runs/again"
    run(options(checkpoint, dataset, name="again", save_txt=True, save_json=True, compare=str(base)))
    names = ("notes.txt", "labels/other.txt", "comparison.xlsx", "my_curve.png", "other_predictions.json")
    notes, picture = [folder / name for name in names], folder / "val_batch7_pred.jpg"
    for file in (*notes, picture):
        file.touch()
    run(options(checkpoint, dataset, name="again", exist_ok=True, save_txt=True))
    gone = [*(folder / f"comparison.{suffix}" for suffix in ("json", "csv", "png")), picture]
    gone.append(folder / f"{checkpoint.stem}_predictions.json")
    assert not any(file.exists() for file in gone)
    assert all(file.exists() for file in (*notes, folder / "val_batch0_pred.jpg"))


def test_label_files_of_others_stay_and_are_told_of(checkpoint: Path, dataset: Path, caplog: pytest.LogCaptureFixture):
    # What --save-hybrid writes is corrected by hand: only what is asked for again may replace it.
    run(options(checkpoint, dataset, save_hybrid=True))
    folder = dataset.parent / "runs/exp/labels"
    before = dict.fromkeys((*folder.iterdir(), folder / "mine.txt"), "0 .5 .5 .1 .1\n")
    for file, text in before.items():
        file.write_text(text)
    run(options(checkpoint, dataset, exist_ok=True))
    assert {file: file.read_text() for file in folder.iterdir()} == before
    assert f"{len(before)} label files of others are left in {folder}" in caplog.text
    run(options(checkpoint, dataset, exist_ok=True, save_txt=True, conf_thres=0.999))
    assert [file.name for file in folder.iterdir()] == ["mine.txt"]


def test_the_folder_of_a_training_is_refused(checkpoint: Path, dataset: Path):
    folder = dataset.parent / "runs/exp"
    folder.mkdir(parents=True)
    for name in ("results.csv", "metrics.json"):
        (folder / name).write_text("of the training")
    with pytest.raises(UserError, match=r"--exist-ok: .*exp holds results\.csv of a training"):
        run(options(checkpoint, dataset, exist_ok=True))
    assert (folder / "metrics.json").read_text() == "of the training"


def test_what_cannot_be_compared_is_refused_before_the_evaluation(checkpoint: Path, dataset: Path):
    with pytest.raises(UserError, match=r"nowhere: no such file"):
        run(options(checkpoint, dataset, compare="nowhere"))
    run(options(checkpoint, dataset))
    with pytest.raises(UserError, match=r"class"):
        run(options(checkpoint, dataset, compare=str(dataset.parent / "runs/exp"), single_cls=True))
    assert not (dataset.parent / "runs/exp2").exists()
    before = (dataset.parent / "runs/exp/matches.npz").read_bytes()
    with pytest.raises(UserError, match=r"matches\.npz: lies in .*exp, where results go"):
        run(options(checkpoint, dataset, compare=str(dataset.parent / "runs/exp"), name="exp", exist_ok=True))
    assert (dataset.parent / "runs/exp/matches.npz").read_bytes() == before


def test_images_of_one_id_are_refused_before_anything_is_written(tmp_path: Path, checkpoint: Path, dataset: Path):
    more = tmp_path / "more"
    more.mkdir()
    cv2.imwrite(str(more / "01.png"), np.zeros((64, 64, 3), np.uint8))  # 1.png is image 1 as well
    content = yaml.safe_load(dataset.read_text())
    dataset.write_text(yaml.safe_dump(content | {"val": ["images", str(more)]}))
    with pytest.raises(UserError, match=r"01\.png and .*1\.png would both be image 1;"):
        run(options(checkpoint, dataset, save_json=True))
    assert not (tmp_path / "runs").exists()


def test_study(checkpoint: Path, other_checkpoint: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("val.SIZES", range(64, 97, 32))
    weights = (str(checkpoint), str(other_checkpoint))
    points = study(options(checkpoint, dataset, weights=weights, task="study"))
    assert [[point.imgsz for point in curve] for curve in points.curves.values()] == [[64, 96]] * 2
    out = dataset.parent / "runs/exp"
    assert files_of(out) == {"study_set_tiny.txt", "study_set_tiny-2.txt", "study.csv", "study.png"}
    plain = run(options(checkpoint, dataset)).metrics
    row = [float(cell) for cell in (out / "study_set_tiny.txt").read_text().splitlines()[1].split()]
    assert row[:4] == pytest.approx([plain.precision, plain.recall, plain.map50, plain.map], rel=1e-3)
    assert row[4:7] == [0, 0, 0] and min(row[7:]) > 0


def test_opencv_computes_an_onnx_file(tmp_path: Path, dataset: Path, caplog):
    caplog.set_level("INFO")
    file = reshaping_detector(tmp_path / "a.onnx", shape=(1, 3, 64, 64), no=8, names="['rod', 'star', 'moon']")
    with pytest.raises(UserError, match=r"a\.onnx knows 3 classes"):
        run(options(file, dataset, dnn=True))
    file = reshaping_detector(tmp_path / "a.onnx", shape=(1, 3, 64, 64), no=12, names=str(dict(enumerate("abcdefg"))))
    dataset.write_text(yaml.safe_dump(yaml.safe_load(dataset.read_text()) | {"names": list("abcdefg")}))
    with pytest.raises(UserError, match=r"takes images of 64 x 64 pixels, not of 96 x 96"):
        run(options(file, dataset, dnn=True))
    assert not (dataset.parent / "runs").exists()
    evaluation = run(options(file, dataset, dnn=True, imgsz=64))
    assert (evaluation.metrics.images, evaluation.metrics.instances) == (3, 3)
    assert "1 images of at most 64 pixels a batch" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--weights: found nothing, expected a .pt file"),
        (["--task", "study"], "--weights: found nothing, expected a .pt file"),
        (["--task", "speed"], "--weights: found nothing, expected a .pt file"),
        (["--weights", "a.pt", "--task", "study", "--save-txt"], "writes no detections; leave --save-txt out"),
        (["--weights", "a.pt", "--task", "study", "--compare", "x"], "leave --compare out"),
        (["--weights", "a.pt", "--task", "speed", "--compare", "x"], "leave --compare out, or take --task val"),
        (["--weights", "a.pt", "--task", "speed", "--save-json"], "leave --save-json out, or take --task val"),
        (["--weights", "a.pt", "--save-hybrid", "--compare", "x"], "with --save-hybrid the metrics mean nothing"),
        (["--weights", "a.pt", "--dnn"], "--dnn: computes .onnx files, found --weights a.pt; leave --dnn out"),
        (["--weights", "a.onnx"], "--weights a.onnx: OpenCV computes .onnx files; add --dnn"),
        (["--weights", "a.pt", "--iou-thres", "1.5"], "--iou-thres 1.5: expected a value from 0 to 1"),
        (["--weights", "a.pt", "--batch-size", "0"], "--batch-size 0: expected at least 1"),
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


def test_coco_numbers_of_other_classes_are_taken_from_the_labels(checkpoint: Path, dataset: Path, caplog):
    (dataset.parent / "set/annotations").mkdir()
    content = {"images": [{"id": i} for i in range(3)], "annotations": [], "categories": [{"id": 1, "name": "rod"}]}
    (dataset.parent / "set/annotations/instances_images.json").write_text(json.dumps(content))
    evaluation = run(options(checkpoint, dataset, save_json=True))
    assert "taken from the labels instead" in caplog.text
    assert evaluation.coco is not None and evaluation.coco.truth == "labels"


def test_official_annotations_give_the_coco_numbers_and_the_ids(checkpoint: Path, dataset: Path):
    (dataset.parent / "set/annotations").mkdir()
    images = [{"id": 70 + i, "file_name": f"{i}.png"} for i in range(3)]
    box = {"image_id": 71, "category_id": 9, "bbox": [3.2, 3.2, 57.6, 57.6], "area": 3000.0, "iscrowd": 0, "id": 1}
    categories = [{"id": 9, "name": "star"}, {"id": 4, "name": "rod"}]
    content = {"images": images, "annotations": [box], "categories": categories}
    (dataset.parent / "set/annotations/instances_images.json").write_text(json.dumps(content))
    evaluation = run(options(checkpoint, dataset, save_json=True))
    assert evaluation.coco is not None and evaluation.coco.truth == "instances_images.json"
    assert evaluation.coco.labels == {"small": 0, "medium": 1, "large": 0}
    predictions = json.loads((dataset.parent / "runs/exp/tiny_predictions.json").read_text())
    assert {row["image_id"] for row in predictions} == {70, 71, 72}
    assert {row["category_id"] for row in predictions} <= {4, 9}
