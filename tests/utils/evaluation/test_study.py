import csv
from pathlib import Path

import cv2

from utils.evaluation.evaluate import Evaluation
from utils.evaluation.metrics import Metrics
from utils.evaluation.study import SIZES, Study


def evaluation(map_: float, inference: float) -> Evaluation:
    metrics = Metrics(precision=0.5, recall=0.25, map50=0.75, map=map_, per_class=[], images=3, instances=4)
    speed = {"pre": 1.0, "inference": inference, "nms": 0.5}
    return Evaluation(metrics, {"box": 0.0, "obj": 0.0, "cls": 0.0}, speed)


def test_sizes_are_those_of_published_studies():
    assert (SIZES[0], SIZES[-1], SIZES[1] - SIZES[0]) == (256, 1536, 128)


def test_files_grow_with_each_point(tmp_path: Path):
    study = Study(tmp_path, "coco")
    study.add("runs/exp/best.pt", 256, evaluation(0.125, 10.0))
    study.add("runs/exp/best.pt", 384, evaluation(1 / 3, 1234567.0))
    assert {path.name for path in tmp_path.iterdir()} == {"study_coco_best.txt", "study.csv", "study.png"}
    study.add("runs/exp2/best.pt", 256, evaluation(0.5, 8.0))
    text = (tmp_path / "study_coco_best.txt").read_text()
    assert text.startswith("       0.5       0.25       0.75      0.125          0 ")
    assert text.splitlines()[1].endswith("          0          1  1.235e+06        0.5")
    assert len((tmp_path / "study_coco_best-2.txt").read_text().splitlines()) == 1
    with (tmp_path / "study.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["weights"], row["imgsz"], row["mAP50-95"], row["inference_ms"]) for row in rows] == [
        ("runs/exp/best.pt", "256", "0.125", "10"),
        ("runs/exp/best.pt", "384", "0.333333", "1.23457e+06"),
        ("runs/exp2/best.pt", "256", "0.5", "8"),
    ]
    assert list(study.curves) == ["best", "best-2"]
    assert [point.milliseconds for point in study.curves["best"]] == [10.5, 1234567.5]
    assert cv2.imread(str(tmp_path / "study.png")).shape == (1500, 2250, 3)
