import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.utils.evaluation.scenes import BOX, A, B, away, part, random_image, table
from utils.evaluation.breakdown import (
    Breakdown,
    ErrorBreakdown,
    break_down,
    class_ap50,
    log_breakdown,
    repair,
)
from utils.evaluation.consumers import BatchResult, ImageResult
from utils.evaluation.error_kinds import ERRORS, ErrorTable, Kind, error_table, join
from utils.evaluation.matching import GroundTruth, match_predictions
from utils.nms import Detections

NAMES = {0: "rod", 1: "star, large", 2: "leaf"}
FOUND_LATER = [(A, away(200)), (A, away(300))]  # two objects of class A that are found


def breakdown_of(*images: ErrorTable) -> Breakdown:
    return break_down(join(images), NAMES)


def gains(breakdown: Breakdown) -> dict[str, float]:
    return {kind.name: round(breakdown.gain(kind), 3) for kind in ERRORS if round(breakdown.gain(kind), 3) != 0}


def ap(*flags: int, labels: int) -> float:
    """AP of detections that are right or wrong, most confident first."""
    order = join([table([], [(A, BOX)] * labels)])
    n = len(flags)
    made = order._replace(
        conf=np.linspace(0.9, 0.1, n).astype(np.float32),
        cls=np.zeros(n, np.int64),
        kind=np.where(flags, Kind.CORRECT, Kind.BACKGROUND),
        label=np.where(flags, np.cumsum(flags) - 1, -1),
    )
    return class_ap50(repair(made), np.array([0]), 1)[0]


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ((A, part(0.3)), "LOCALISATION"),
        ((A, (500.0, 0.0, 600.0, 40.0)), "BACKGROUND"),
        ((A, (200.0, 300.0, 250.0, 376.0)), "DUPLICATE"),
    ],
)
def test_a_false_positive_costs_what_its_kind_says(wrong: tuple, kind: str):
    """Most confident first: one object found, the error, another object found."""
    labels = [(A, BOX), *FOUND_LATER] if kind == "LOCALISATION" else FOUND_LATER
    breakdown = breakdown_of(table([FOUND_LATER[0], wrong, FOUND_LATER[1]], labels))
    n = len(labels)
    assert breakdown.counts[0].tolist() == [int(name.name == kind) for name in ERRORS]
    assert breakdown.mean_ap50 == pytest.approx(ap(1, 0, 1, labels=n))
    mended = ap(1, 1, 1, labels=n) if kind == "LOCALISATION" else ap(1, 1, labels=n)
    assert gains(breakdown) == {kind: round(mended - ap(1, 0, 1, labels=n), 3)}
    assert breakdown.gain_false_positives == pytest.approx(ap(1, 1, labels=n) - ap(1, 0, 1, labels=n))
    assert breakdown.gain_misses == pytest.approx(ap(1, 0, 1, labels=2) - ap(1, 0, 1, labels=n))


def test_a_wrong_class_costs_two_classes():
    breakdown = breakdown_of(table([(A, BOX), FOUND_LATER[0]], [(B, BOX), FOUND_LATER[0]]))
    before = ap(0, 1, labels=1)
    assert breakdown.ap50[:2] == pytest.approx([before, 0])
    assert breakdown.counts[A, ERRORS.index(Kind.CLASS)] == 1
    assert breakdown.repaired[:2, ERRORS.index(Kind.CLASS)] == pytest.approx([1, 1])
    assert gains(breakdown) == {"CLASS": round((1 - before + 1) / 2, 3)}


def test_both_wrong_goes_and_the_object_is_missed():
    breakdown = breakdown_of(table([(B, part(0.3)), FOUND_LATER[0]], [(A, BOX), FOUND_LATER[0]]))
    assert breakdown.counts.sum(0).tolist() == [0, 0, 1, 0, 0, 1]
    assert gains(breakdown) == {"MISSED": round(1 - ap(1, labels=2), 3)}  # no label is of class B


def test_missed_objects_do_not_count():
    breakdown = breakdown_of(table([FOUND_LATER[0]], [(A, BOX), *FOUND_LATER]), table([], [(B, BOX)]))
    assert breakdown.counts[:, ERRORS.index(Kind.MISSED)].tolist() == [2, 1, 0]
    assert gains(breakdown) == {"MISSED": round((1 - ap(1, labels=3) + 1) / 2, 3)}
    assert breakdown.gain_misses == breakdown.gain(Kind.MISSED)


@pytest.mark.parametrize(
    ("found", "kind", "correct", "conf"),
    [
        ([(A, part(0.3)), (A, part(0.9))], Kind.LOCALISATION, [True], [0.1]),  # found anyway
        ([(A, part(0.9)), (A, part(0.3))], Kind.LOCALISATION, [True], [0.9]),
        ([(A, part(0.3)), (A, part(0.4))], Kind.LOCALISATION, [True], [0.9]),
        ([(B, part(0.9)), (2, part(0.8))], Kind.CLASS, [True], [0.9]),
        ([(B, part(0.9)), (A, part(0.3))], Kind.CLASS, [True, False], [0.9, 0.1]),
        ([(B, part(0.9)), (A, part(0.3))], Kind.LOCALISATION, [False], [0.9]),  # of all, the most confident
    ],
)
def test_only_the_best_detection_of_an_object_is_mended(found: list, kind: Kind, correct: list, conf: list):
    mended = repair(table(found, [(A, BOX)]), kind)
    assert mended.correct.tolist() == correct
    assert mended.conf.tolist() == pytest.approx(conf)
    assert all(cls == A for cls, right in zip(mended.cls, mended.correct, strict=True) if right)


def plain_ap50(images: list[tuple[Detections, GroundTruth]]) -> float:
    """COCO's AP at IoU 0.5 of every class that has labels, read aloud."""
    aps = []
    for cls in sorted({cls for _, labels in images for cls in labels.cls.tolist()}):
        rows, total = [], 0
        for found, labels in images:
            right = match_predictions(found, labels.cls, labels.xyxy, torch.tensor([0.5]))[:, 0]
            rows += [(float(found.conf[i]), bool(right[i])) for i in range(len(found)) if found.cls[i] == cls]
            total += int((labels.cls == cls).sum())
        rows.sort(key=lambda row: -row[0])
        curve = [
            (sum(r for _, r in rows[: i + 1]) / total, np.mean([r for _, r in rows[: i + 1]])) for i in range(len(rows))
        ]
        aps.append(np.mean([max((p for r, p in curve if r >= x), default=0) for x in np.linspace(0, 1, 101)]))
    return float(np.mean(aps)) if aps else 0.0


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.tuples(st.integers(0, 25), st.integers(0, 6)), max_size=4))
def test_repairing_everything_is_perfect_and_nothing_is_cocos_ap(seed: int, sizes: list[tuple[int, int]]):
    images = [random_image(seed + i, n, m) for i, (n, m) in enumerate(sizes)]
    joined = join([error_table(*image) for image in images])
    breakdown = break_down(joined, NAMES)
    assert breakdown.mean_ap50 == pytest.approx(plain_ap50(images), abs=1e-12)
    assert breakdown.counts[:, :-1].sum() + (joined.kind == Kind.CORRECT).sum() == len(joined.conf)
    classes = np.unique(joined.label_cls)
    everything = class_ap50(repair(joined, *ERRORS), classes, len(NAMES))
    left = np.unique(joined.label_cls[~joined.missed])
    assert everything[left] == pytest.approx(1)
    assert np.isnan(everything).sum() == len(NAMES) - len(left)
    for kind in (Kind.BOTH, Kind.DUPLICATE, Kind.BACKGROUND):  # fewer false positives and nothing else
        assert breakdown.gain(kind) >= -1e-12


def results(*images: tuple) -> BatchResult:
    return BatchResult(
        torch.zeros(0), torch.zeros(0, 6), [], [ImageResult(Path("a.jpg"), (400, 600), *image) for image in images]
    )


def test_files_and_log(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    consumer = ErrorBreakdown(tmp_path, NAMES)
    images = [random_image(seed, 25, 6) for seed in range(8)]
    consumer.update(results(*images[:5]))
    consumer.update(results(*images[5:]))
    consumer.finish()
    breakdown = breakdown_of(*(error_table(*image) for image in images))
    content = json.loads((tmp_path / "breakdown.json").read_text())
    assert content == consumer.result.to_dict() == breakdown.to_dict()
    assert list(content["kinds"]) == ["localisation", "class", "both", "duplicate", "background", "missed"]
    rows = list(csv.DictReader((tmp_path / "breakdown.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == list(NAMES.values())
    assert sum(int(row["localisation_errors"]) for row in rows) == content["kinds"]["localisation"]["count"]
    mean = np.mean([float(row["d_ap50_class"]) for row in rows])
    assert mean == pytest.approx(content["kinds"]["class"]["d_ap50"], abs=1e-5)
    assert (tmp_path / "breakdown.png").is_file()
    with caplog.at_level(logging.INFO):
        log_breakdown(breakdown)
    assert {line.split()[0] for line in caplog.messages[1:]} == set(content["kinds"])
    costs = [float(line.split()[2]) for line in caplog.messages[1:]]
    assert costs == sorted(costs, reverse=True)


def test_nothing_at_all(tmp_path: Path):
    consumer = ErrorBreakdown(tmp_path, NAMES)
    consumer.finish()
    assert consumer.result.mean_ap50 == 0
    assert json.loads((tmp_path / "breakdown.json").read_text())["kinds"]["missed"] == {"count": 0, "d_ap50": 0}
