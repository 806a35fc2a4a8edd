import torch

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
