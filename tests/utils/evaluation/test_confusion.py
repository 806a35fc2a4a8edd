import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.utils.evaluation.scenes import random_image
from utils.boxes import pairwise_iou
from utils.evaluation.confusion import ConfusionMatrix
from utils.evaluation.matching import GroundTruth
from utils.nms import Detections

NO_LABELS = GroundTruth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
NOTHING = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))


def found(*rows: tuple[float, ...]) -> Detections:
    table = torch.tensor(rows)
    return Detections(table[:, :4], table[:, 4], table[:, 5].long())


def truth(*rows: tuple[float, ...]) -> GroundTruth:
    table = torch.tensor(rows)
    return GroundTruth(table[:, 1:], table[:, 0].long())


def test_hit_confusion_miss_and_false_alarm():
    matrix = ConfusionMatrix(3)
    matrix.update(
        found((0, 0, 10, 20, 0.9, 0), (50, 0, 90, 20, 0.8, 1), (0, 70, 9, 79, 0.7, 1), (0, 0, 10, 20, 0.2, 2)),
        truth((0, 0, 0, 10, 20), (2, 50, 0, 90, 20), (1, 200, 200, 220, 230)),
    )
    expected = torch.zeros(4, 4, dtype=torch.long)
    expected[0, 0] = 1
    expected[1, 2] = 1  # class 2 taken for class 1
    expected[1, 3] = 1  # false alarm
    expected[3, 1] = 1  # missed
    assert matrix.matrix.tolist() == expected.tolist()


def test_the_better_overlap_wins_a_label_and_the_other_is_a_false_alarm():
    matrix = ConfusionMatrix(2)
    matrix.update(found((0, 0, 10, 14, 0.9, 1), (0, 0, 10, 19, 0.5, 0)), truth((0, 0, 0, 10, 20)))
    assert matrix.matrix.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_false_alarms_count_without_any_match_and_without_labels():
    matrix = ConfusionMatrix(1)
    matrix.update(found((0, 0, 5, 9, 0.9, 0)), truth((0, 50, 50, 60, 60)))
    matrix.update(found((0, 0, 5, 9, 0.9, 0)), NO_LABELS)
    matrix.update(NOTHING, truth((0, 50, 50, 60, 60)))
    matrix.update(NOTHING, NO_LABELS)
    assert matrix.matrix.tolist() == [[0, 2], [2, 0]]


def test_every_label_and_every_confident_detection_is_counted_once():
    generator = torch.Generator().manual_seed(3)
    low = torch.rand(40, 2, generator=generator) * 50
    boxes = torch.cat((low, low + 20 + torch.rand(40, 2, generator=generator) * 20), 1)
    cls = torch.randint(0, 4, (40,), generator=generator)
    conf = torch.rand(25, generator=generator)
    matrix = ConfusionMatrix(4)
    matrix.update(Detections(boxes[:25], conf, cls[:25]), GroundTruth(boxes[25:], cls[25:]))
    assert matrix.matrix[:, :4].sum(0).tolist() == torch.bincount(cls[25:], minlength=4).tolist()
    assert matrix.matrix[:4].sum(1).tolist() == torch.bincount(cls[:25][conf > 0.25], minlength=4).tolist()


def by_the_rule(found: Detections, labels: GroundTruth, nc: int) -> list[list[int]]:
    """The rule read aloud: a confident detection wants the label it overlaps most, a label takes the best of those."""
    matrix = [[0] * (nc + 1) for _ in range(nc + 1)]
    confident = [i for i in range(len(found)) if found.conf[i] > 0.25]
    overlap = pairwise_iou(found.xyxy, labels.xyxy).tolist()
    wanted = {}
    for i in confident:
        best = max(range(len(labels)), key=overlap[i].__getitem__, default=None)
        if best is not None and overlap[i][best] > 0.45:
            wanted.setdefault(best, []).append(i)
    winners = {max(rivals, key=lambda i: overlap[i][label]): label for label, rivals in wanted.items()}
    for i in confident:
        matrix[found.cls[i]][labels.cls[winners[i]] if i in winners else nc] += 1
    for label in set(range(len(labels))) - set(winners.values()):
        matrix[nc][labels.cls[label]] += 1
    return matrix


@settings(max_examples=80)
@given(seed=st.integers(0, 10**6), n=st.integers(0, 20), m=st.integers(0, 8))
def test_equals_the_rule_on_any_image(seed: int, n: int, m: int):
    found, labels = random_image(seed, n, m)
    matrix = ConfusionMatrix(3)
    matrix.update(found, labels)
    assert matrix.matrix.tolist() == by_the_rule(found, labels, 3)
