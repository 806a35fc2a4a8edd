import csv
from pathlib import Path

from utils.evaluation.coco import CocoClassMetrics, CocoMetrics
from utils.evaluation.evaluate import Evaluation
from utils.evaluation.metrics import ClassMetrics, Metrics
from utils.evaluation.tables import write_tables

STAR = ClassMetrics(index=1, name="star, red", images=2, instances=5, precision=0.25, recall=0.5, map50=0.75, map=1 / 3)
COCO = CocoMetrics(
    APs=0.125,
    ARs=0.5,
    APl=0.0,
    truth="labels",
    labels={"small": 4, "medium": 0, "large": 1},
    per_class=[
        CocoClassMetrics(index=0, name="rod"),
        CocoClassMetrics(index=1, name="star, red", AP=0.5, AP50=0.625, APs=0.125, AR1=0.75, AR100=1.0),
    ],
)


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def evaluation(coco: CocoMetrics | None) -> Evaluation:
    return Evaluation(Metrics(per_class=[STAR]), losses={}, speed_ms={}, coco=coco)


def test_one_row_for_each_class(tmp_path: Path):
    write_tables(tmp_path, evaluation(COCO))
    rod, star = read(tmp_path / "per_class.csv")
    assert star == {
        **{"class": "star, red", "images": "2", "instances": "5"},
        **{"P": "0.25", "R": "0.5", "mAP50": "0.75", "mAP50-95": "0.333333"},
        **{"COCO AP": "0.5", "COCO AP50": "0.625", "COCO AP75": "", "COCO APs": "0.125", "COCO APm": ""},
        **{"COCO APl": "", "COCO AR100": "1"},
    }
    assert {column: cell for column, cell in rod.items() if cell} == {"class": "rod", "images": "0", "instances": "0"}


def test_one_row_for_each_size(tmp_path: Path):
    write_tables(tmp_path, evaluation(COCO))
    assert (tmp_path / "per_size.csv").read_text() == (
        "size,COCO AP,COCO AR,labels\nsmall,0.125,0.5,4\nmedium,,,0\nlarge,0,,1\n"
    )


def test_without_coco(tmp_path: Path):
    write_tables(tmp_path, evaluation(None))
    (star,) = read(tmp_path / "per_class.csv")
    assert (star["mAP50"], star["COCO AP"]) == ("0.75", "")
    assert (tmp_path / "per_size.csv").read_text().splitlines()[1:] == ["small,,,", "medium,,,", "large,,,"]
