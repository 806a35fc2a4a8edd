import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from tests.utils.evaluation.records import pair_of_records, rearranged
from utils.errors import UserError
from utils.evaluation.compare import (
    MIN_IMAGES,
    Comparison,
    Difference,
    check_classes,
    check_images,
    compare,
)
from utils.evaluation.comparison_report import log_comparison, save_comparison
from utils.evaluation.metrics import average_precision
from utils.evaluation.record import Record


def changed(record: Record, **columns: np.ndarray) -> Record:
    return Record(**{**vars(record), **columns})


@pytest.fixture(scope="module")
def pair() -> tuple[Record, Record]:
    return pair_of_records(np.random.default_rng(0), 120, (0.95, 0.7), (0.6, 0.37, 0.03))


@pytest.fixture(scope="module")
def comparison(pair: tuple[Record, Record]) -> Comparison:
    return compare(*pair, replicates=200)


def test_the_points_are_those_of_the_metrics(pair: tuple[Record, Record], comparison: Comparison):
    for record, side in zip(pair, ("this", "baseline"), strict=True):
        ap = average_precision(record.tp, record.conf, record.cls, record.label_cls).ap
        assert getattr(comparison.map50, side) == pytest.approx(ap[:, 0].mean(), abs=1e-9)
        assert getattr(comparison.map, side) == pytest.approx(ap.mean(), abs=1e-9)
        for row, values in zip(comparison.per_class, ap, strict=True):
            assert getattr(row.map50, side) == pytest.approx(values[0], abs=1e-9)
            assert getattr(row.map, side) == pytest.approx(values.mean(), abs=1e-9)
    record = pair[0]
    assert [row.instances for row in comparison.per_class] == np.bincount(record.label_cls).tolist()
    images = [len(set(record.label_image[record.label_cls == c].tolist())) for c in range(3)]
    assert [row.images for row in comparison.per_class] == images


def test_a_real_difference_is_seen_and_rare_classes_are_not_judged(comparison: Comparison):
    assert comparison.map50.verdict == comparison.map.verdict == "better"
    assert comparison.per_class[0].map.verdict == "better"
    rare = comparison.per_class[2]
    assert rare.images < MIN_IMAGES
    assert rare.map.verdict == "too few images"
    assert rare.map.interval is None


def test_the_other_way_round_is_the_mirror_image(pair: tuple[Record, Record], comparison: Comparison):
    mirrored = compare(pair[1], pair[0], replicates=200)
    low, high = comparison.map.interval
    assert mirrored.map.interval == pytest.approx((-high, -low), abs=1e-12)
    assert mirrored.map.verdict == "worse"


def test_nothing_differs_from_itself_in_any_order(pair: tuple[Record, Record]):
    record = pair[0]
    order = np.random.default_rng(3).permutation(len(record.images))
    same = compare(record, rearranged(record, order), replicates=50)
    assert same.map.interval == pytest.approx((0, 0), abs=1e-12)
    assert {row.map50.verdict for row in same.per_class} == {"no clear difference", "too few images"}


def test_the_order_of_the_images_does_not_matter(pair: tuple[Record, Record], comparison: Comparison):
    order = np.random.default_rng(5).permutation(len(pair[1].images))
    again = compare(pair[0], rearranged(pair[1], order), replicates=200)
    assert again.map.interval == pytest.approx(comparison.map.interval, abs=1e-12)


def test_pairing_sees_what_independent_samples_would_not(pair: tuple[Record, Record]):
    """One detector that loses a tenth of its hits: far less than what other images would change."""
    record = pair[0]
    kept = np.random.default_rng(1).random(len(record.conf)) > 0.1
    difference = compare(record, changed(record, tp=record.tp & kept[:, None]), replicates=200).map50
    low, high = difference.interval
    assert difference.verdict == "better"
    spread = [
        average_precision(r.tp, r.conf, r.cls, r.label_cls).ap[:2, 0].mean()
        for r in (pair_of_records(np.random.default_rng(s), 120, (0.95, 0))[0] for s in range(20))
    ]
    assert high - low < 2 * np.std(spread) * 1.96 * 2**0.5


def test_intervals_hold_the_truth_as_often_as_they_say():
    """95 %, less what is known to be missing with 60 images; 100 sets leave a spread of 2 to 3 %."""
    rng = np.random.default_rng(7)
    skills, shares = (0.9, 0.8), (0.6, 0.4)
    truth = compare(*pair_of_records(rng, 20_000, skills, shares), replicates=1).map.delta
    assert truth > 0.02
    intervals = [compare(*pair_of_records(rng, 60, skills, shares), replicates=150).map.interval for _ in range(100)]
    assert 0.85 <= np.mean([low <= truth <= high for low, high in intervals]) <= 0.99


def test_equal_detectors_rarely_look_different():
    rng = np.random.default_rng(8)
    verdicts = [
        compare(*pair_of_records(rng, 60, (0.85, 0.85), (0.6, 0.4)), replicates=150).map.verdict for _ in range(100)
    ]
    assert verdicts.count("no clear difference") >= 85


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.01, 0.2), "better"),
        ((-0.2, -0.01), "worse"),
        ((-0.01, 0.2), "no clear difference"),
        (None, "too few images"),
    ],
)
def test_verdicts(interval: tuple[float, float] | None, verdict: str):
    assert Difference(0.5, 0.4, interval).verdict == verdict


def test_refuses_other_images(pair: tuple[Record, Record]):
    first, second = pair
    images = second.images.copy()
    images[3] = "elsewhere.jpg"
    with pytest.raises(UserError, match=r"1 images are only in this run, such as 00003.jpg, 1 images are only in the"):
        compare(first, changed(second, images=images))
    fewer = rearranged(second, np.arange(119))
    with pytest.raises(UserError, match=r"1 images are only in this run, such as 00119.jpg; evaluate both on the same"):
        compare(first, fewer)
    with pytest.raises(UserError, match="1 images are only in the other"):
        check_images(first, fewer.images)
    twice = np.append(first.images[:-1], first.images[0])
    with pytest.raises(UserError, match=r"more often|only in the other"):
        check_images(first, twice)
    check_images(first, first.images[::-1])


@pytest.mark.parametrize("what", ["class", "place", "number"])
def test_refuses_other_labels(pair: tuple[Record, Record], what: str):
    first, second = pair
    label = 8
    image = second.label_image[label]
    if what == "class":
        cls = second.label_cls.copy()
        cls[label] = (cls[label] + 1) % 3
        other = changed(second, label_cls=cls)
    elif what == "place":
        xyxy = second.label_xyxy.copy()
        xyxy[label, 2] += 2
        other = changed(second, label_xyxy=xyxy)
    else:
        counts = second.label_counts.copy()
        counts[image] -= 1
        keep = np.arange(len(second.label_cls)) != label
        other = changed(
            second, label_counts=counts, label_cls=second.label_cls[keep], label_xyxy=second.label_xyxy[keep]
        )
    order = np.random.default_rng(2).permutation(len(second.images))
    for baseline in (other, rearranged(other, order)):
        with pytest.raises(
            UserError, match=rf"the labels of 1 images differ, such as those of {second.images[image]};"
        ):
            compare(first, baseline)


def test_a_hair_between_labels_is_no_difference(pair: tuple[Record, Record]):
    moved = changed(pair[1], label_xyxy=pair[1].label_xyxy + np.float32(0.01))
    compare(pair[0], moved, replicates=2)


def test_refuses_other_classes(pair: tuple[Record, Record]):
    with pytest.raises(UserError, match="this one has 2 classes, the other 3"):
        check_classes(pair[0], {0: "class 0", 1: "class 1"})
    with pytest.raises(UserError, match="class 1 is 'cat' here and 'class 1' in the other"):
        check_classes(pair[0], {0: "class 0", 1: "cat", 2: "class 2"})
    check_classes(pair[0], {2: "class 2", 0: "class 0", 1: "class 1"})


def test_refuses_images_without_labels(pair: tuple[Record, Record]):
    record = pair[0]
    empty = changed(
        record,
        label_counts=np.zeros_like(record.label_counts),
        label_cls=record.label_cls[:0],
        label_xyxy=record.label_xyxy[:0],
    )
    with pytest.raises(UserError, match="no labels"):
        compare(empty, empty)


def test_files(comparison: Comparison, tmp_path: Path):
    save_comparison(tmp_path, comparison)
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["map"]["delta"] == comparison.map.delta
    assert content["map50"]["interval"] == list(comparison.map50.interval)
    assert content["per_class"][2]["map"]["interval"] is None
    assert content["replicates"] == 200
    rows = list(csv.DictReader((tmp_path / "comparison.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["all", "class 0", "class 1", "class 2"]
    assert float(rows[1]["map50_delta"]) == pytest.approx(comparison.per_class[0].map50.delta, abs=1e-5)
    assert (rows[0]["map_verdict"], rows[3]["map_low"], rows[3]["map_verdict"]) == ("better", "", "too few images")
    assert (tmp_path / "comparison.png").is_file()


def test_log(comparison: Comparison, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        log_comparison(comparison)
    rows = [line.split() for line in caplog.messages]
    assert [row[-1] for row in rows if row[0] in ("mAP50", "mAP50-95")] == ["better", "better"]
    assert any("1 in fewer than 10 images" in line for line in caplog.messages)
