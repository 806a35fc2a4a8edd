import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.evaluation.matching import GroundTruth
from utils.evaluation.metrics import DetectionMetrics, Metrics, average_precision, smooth
from utils.nms import Detections


def at_all_thresholds(hits: list[bool]) -> np.ndarray:
    return np.repeat(np.array(hits, dtype=bool)[:, None], 10, axis=1)


def brute_force_ap(hits: np.ndarray, labels: int) -> float:
    """AP from its definition: at each of 101 recalls the best precision at that recall or beyond, linear between."""
    tp = np.cumsum(hits)
    recall = [0.0, *(tp / labels), 1.0]
    precision = [1.0, *(tp / np.arange(1, len(hits) + 1)), 0.0]
    best = [max(precision[i:]) for i in range(len(precision))]
    values = np.interp(np.linspace(0, 1, 101), recall, best)
    return float(sum((a + b) / 2 * 0.01 for a, b in pairwise(values)))


def test_perfect_detections():
    curves = average_precision(
        at_all_thresholds([True] * 4), np.full(4, 0.9), np.array([0, 0, 2, 2]), np.array([2, 0, 0, 2])
    )
    assert curves.classes.tolist() == [0, 2]
    assert curves.instances.tolist() == [2, 2]
    np.testing.assert_allclose(curves.ap, 0.995, atol=1e-12)  # 101 points: the last step falls to 0
    np.testing.assert_allclose(curves.precision, 1)
    np.testing.assert_allclose(curves.recall, 1)
    assert curves.tp.tolist() == [2, 2]
    assert curves.fp.tolist() == [0, 0]


def test_half_right_by_hand():
    # Confidence order: right, wrong, right of 4 labels -> precision 1, 1/2, 2/3 at recall 1/4, 1/4, 2/4.
    curves = average_precision(
        at_all_thresholds([True, False, True]), np.array([0.9, 0.8, 0.7]), np.zeros(3), np.zeros(4)
    )
    assert curves.recall[0] == pytest.approx(0.5)
    assert curves.precision[0] == pytest.approx(2 / 3)
    assert (curves.tp[0], curves.fp[0]) == (2, 1)
    assert curves.ap[0, 0] == pytest.approx(brute_force_ap(np.array([1, 0, 1]), 4), abs=1e-12)


def test_classes_without_labels_do_not_count_and_those_without_detections_are_zero():
    curves = average_precision(
        at_all_thresholds([True, False]), np.array([0.9, 0.8]), np.array([1, 5]), np.array([1, 3])
    )
    assert curves.classes.tolist() == [1, 3]
    assert curves.ap[0, 0] > 0.9
    assert curves.ap[1].tolist() == [0] * 10
    assert curves.precision[1] == curves.recall[1] == 0


@settings(max_examples=30)
@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 10), st.randoms(use_true_random=False))
def test_ap_follows_its_definition_whatever_the_order_of_the_input(hits: list[bool], missed: int, random):
    labels = max(sum(hits) + missed, 1)
    order = list(range(len(hits)))
    random.shuffle(order)
    conf = np.linspace(0.95, 0.05, len(hits))[order]
    curves = average_precision(at_all_thresholds(hits)[order], conf, np.zeros(len(hits)), np.zeros(labels))
    np.testing.assert_allclose(curves.ap[0], brute_force_ap(np.array(hits), labels), atol=1e-9)
    assert (np.diff(curves.pr_curve) <= 1e-12).all()
    assert ((curves.precision >= 0) & (curves.precision <= 1)).all()


def test_smoothing_keeps_a_constant_and_the_length():
    np.testing.assert_allclose(smooth(np.full(1000, 0.3), 0.1), 0.3)
    spike = np.zeros(1000)
    spike[500] = 1
    assert np.count_nonzero(smooth(spike, 0.1)) == 101


def image(boxes: list[list[float]], classes: list[int], conf: float = 0.9) -> tuple[Detections, GroundTruth]:
    xyxy = torch.tensor(boxes).reshape(-1, 4)
    cls = torch.tensor(classes).long()
    return Detections(xyxy, torch.full((len(cls),), conf), cls), GroundTruth(xyxy, cls)


def test_metrics_over_images():
    metrics = DetectionMetrics({0: "cat", 1: "dog", 2: "cow"})
    found, labels = image([[0, 0, 10, 20], [30, 30, 50, 90]], [0, 2])
    metrics.update(found, labels)
    metrics.update(image([], [])[0], GroundTruth(torch.tensor([[5.0, 5.0, 9.0, 9.0]]), torch.tensor([2])))
    result = metrics.compute()
    assert (result.images, result.instances) == (2, 3)
    assert [(c.index, c.name, c.images, c.instances) for c in result.per_class] == [(0, "cat", 1, 1), (2, "cow", 2, 2)]
    assert result.recall == pytest.approx(0.75)
    assert result.precision == pytest.approx(1)
    assert result.per_class[1].map50 == pytest.approx(brute_force_ap(np.array([1]), 2))
    assert result.map == pytest.approx(np.mean([c.map for c in result.per_class]))


def test_no_image_no_label_no_detection():
    assert DetectionMetrics({}).compute() == Metrics()
    only_false_alarms = DetectionMetrics({0: "cat"})
    only_false_alarms.update(image([[0, 0, 5, 5]], [0])[0], image([], [])[1])
    assert only_false_alarms.compute() == Metrics(images=1)
    nothing_found = DetectionMetrics({0: "cat"})
    nothing_found.update(image([], [])[0], image([[0, 0, 5, 5]], [0])[1])
    result = nothing_found.compute()
    assert (result.precision, result.recall, result.map50, result.map, result.instances) == (0, 0, 0, 0, 1)


def test_fitness_and_json():
    metrics = Metrics(precision=0.1, recall=0.2, map50=0.6, map=0.4)
    assert metrics.fitness == pytest.approx(0.42)
    assert json.loads(json.dumps(metrics.to_dict()))["map50"] == 0.6
