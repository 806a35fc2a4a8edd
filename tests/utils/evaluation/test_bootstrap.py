import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.utils.evaluation.records import pair_of_records
from utils.evaluation import bootstrap
from utils.evaluation.bootstrap import WeightedAP, resampled
from utils.evaluation.metrics import average_precision
from utils.evaluation.record import Record


def expected_ap(record: Record, weights: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """AP by `average_precision`, of a data set that holds each image as often as its weight says."""
    order = np.argsort(-record.conf, kind="stable")
    times = weights[record.detection_image[order]]
    tp, conf, cls = (np.repeat(column[order], times, axis=0) for column in (record.tp, record.conf, record.cls))
    curves = average_precision(tp, conf, cls, np.repeat(record.label_cls, weights[record.label_image]))
    ap = np.full((len(classes), 10), np.nan)
    ap[np.searchsorted(classes, curves.classes)] = curves.ap
    return ap


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), images=st.integers(1, 12), skill=st.floats(0, 2), ties=st.booleans())
def test_equals_the_ap_of_the_repeated_data_set(seed: int, images: int, skill: float, ties: bool):
    rng = np.random.default_rng(seed)
    record, _ = pair_of_records(rng, images, (skill, 0))
    if ties:
        record = Record(**{**vars(record), "conf": record.conf.round(1)})
    run = WeightedAP(record, np.arange(images))
    weights = rng.multinomial(images, np.full(images, 1 / images), size=3).astype(np.int32)
    weights[0] = 1
    for row, ap in zip(weights, run(weights), strict=True):
        np.testing.assert_allclose(ap, expected_ap(record, row, run.classes), rtol=0, atol=1e-9)


def test_perfect_and_useless_detectors():
    record, _ = pair_of_records(np.random.default_rng(0), 30, (5, 0))
    everything = np.ones((1, 30), np.int32)
    right = record.tp.any(1)
    perfect = Record(**{**vars(record), "tp": np.repeat(right[:, None], 10, 1), "conf": right.astype(np.float32)})
    useless = Record(**{**vars(record), "tp": np.zeros_like(record.tp)})
    assert WeightedAP(perfect, np.arange(30))(everything) == pytest.approx(0.995)
    assert not WeightedAP(useless, np.arange(30))(everything).any()


def test_counts_recalls_as_a_search_does():
    n, m = np.divmod(np.arange(400 * 400), 400)
    recall = np.minimum(n, m)[m > 0] / m[m > 0]
    near = np.concatenate((recall, np.nextafter(recall, 0), np.nextafter(recall, 1)))
    assert (bootstrap._recalls_below(near) == np.searchsorted(np.linspace(0, 1, 101), near)).all()


def test_all_runs_see_the_same_draws_whatever_the_block(monkeypatch: pytest.MonkeyPatch):
    run = WeightedAP(pair_of_records(np.random.default_rng(1), 20, (0.9, 0))[0], np.arange(20))
    first = resampled([run, run], 20, replicates=11, seed=4)
    assert first.shape == (2, 11, 3, 10)
    np.testing.assert_array_equal(first[0], first[1])
    monkeypatch.setattr(bootstrap, "_BLOCK", 3)
    np.testing.assert_array_equal(resampled([run, run], 20, replicates=11, seed=4), first)
    assert not np.array_equal(resampled([run], 20, replicates=11, seed=5)[0], first[0])
