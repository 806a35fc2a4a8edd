import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.boxes import pairwise_iou
from utils.evaluation.matching import GroundTruth, match_predictions
from utils.nms import Detections

THRESHOLDS = torch.linspace(0.5, 0.95, 10)


def detections(boxes: list[list[float]], classes: list[int]) -> Detections:
    n = len(boxes)
    return Detections(torch.tensor(boxes).reshape(n, 4), torch.linspace(0.9, 0.1, n), torch.tensor(classes).long())


def by_hand(found: Detections, cls: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """The four rules of the matching, one threshold and one label at a time."""
    overlap = pairwise_iou(found.xyxy, boxes)
    result = torch.zeros((len(found), len(THRESHOLDS)), dtype=torch.bool)
    for t, threshold in enumerate(THRESHOLDS):
        taken: set[int] = set()
        for i in range(len(found)):
            candidates = [
                (-float(overlap[i, j]), j)
                for j in range(len(cls))
                if overlap[i, j] >= threshold and cls[j] == found.cls[i]
            ]
            if candidates and min(candidates)[1] not in taken:
                taken.add(min(candidates)[1])
                result[i, t] = True
    return result


def test_the_confident_detection_wins_over_the_accurate_one():
    label = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    found = detections([[0, 0, 10, 7.8], [0, 0, 10, 10]], [0, 0])
    hits = match_predictions(found, torch.tensor([0]), label, THRESHOLDS)
    assert hits[0].tolist() == [True] * 6 + [False] * 4  # IoU 0.78
    assert not hits[1, 0]
    assert hits[1, -1], "each threshold is judged on its own"


def test_a_detection_whose_label_is_taken_does_not_fall_back_on_the_next():
    labels = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 2.0, 10.0, 12.0]])
    found = detections([[0, 0, 10, 10], [0, 0.5, 10, 10.5]], [3, 3])
    hits = match_predictions(found, torch.tensor([3, 3]), labels, THRESHOLDS)
    assert hits[:, 0].tolist() == [True, False]


def test_another_class_is_no_match():
    label = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    assert not match_predictions(detections([[0, 0, 10, 10]], [1]), torch.tensor([0]), label, THRESHOLDS).any()


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0)])
def test_empty(n: int, m: int):
    hits = match_predictions(detections([[0, 0, 5, 9]] * n, [0] * n), torch.zeros(m), torch.ones(m, 4), THRESHOLDS)
    assert hits.shape == (n, 10)
    assert not hits.any()


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 12), st.integers(0, 5))
def test_agrees_with_the_rules_applied_one_by_one(seed: int, n: int, m: int):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(m, 2, generator=generator) * 8
    boxes = torch.cat((low, low + 4 + torch.rand(m, 2, generator=generator) * 6), 1)
    cls = torch.randint(0, 2, (m,), generator=generator)
    source = torch.randint(0, max(m, 1), (n,), generator=generator)
    base = boxes[source] if m else torch.rand(n, 4)
    found = Detections(
        base + torch.rand(n, 4, generator=generator) - 0.5,
        torch.linspace(0.9, 0.1, n),
        torch.randint(0, 2, (n,), generator=generator),
    )
    assert torch.equal(match_predictions(found, cls, boxes, THRESHOLDS), by_hand(found, cls, boxes))


def test_ground_truth_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="expected shapes"):
        GroundTruth(torch.zeros(3, 4), torch.zeros(2))
