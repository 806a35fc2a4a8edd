import pytest
import torch

from utils.evaluation.hybrid import with_labels
from utils.nms import non_max_suppression

PREDICTED = torch.tensor(
    [
        [[20.0, 10, 10, 10, 0.9, 0.2, 0.8], [60.0, 30, 8, 8, 0.5, 0.9, 0.1]],
        [[40.0, 20, 10, 10, 0.7, 0.9, 0.1], [0.0, 0, 0, 0, 0, 0, 0]],
    ]
)
LABELS = torch.tensor([[1, 0, 0.5, 0.5, 0.2, 0.1], [0, 1, 0.25, 0.25, 0.125, 0.25], [1, 1, 0.1, 0.9, 0.1, 0.1]])


def test_labels_win_and_detections_fill_what_they_miss():
    merged = with_labels(PREDICTED, LABELS, (40, 80))
    assert merged.shape == (2, 4, 7)
    assert torch.equal(merged[:, :2], PREDICTED)
    first, second = non_max_suppression(merged, conf_thres=0.001, iou_thres=0.6, multi_label=True)
    certain = first.conf == 1
    torch.testing.assert_close(first.xyxy[certain], torch.tensor([[15.0, 5, 25, 15]]))
    assert first.cls[certain].tolist() == [1]
    assert first.cls.tolist() == [1, 0, 0, 1]
    torch.testing.assert_close(first.conf, torch.tensor([1, 0.45, 0.18, 0.05]))
    assert second.cls[second.conf == 1].tolist() == [0, 1]
    torch.testing.assert_close(second.xyxy[0], torch.tensor([32.0, 18, 48, 22]))


def test_a_threshold_of_zero_does_not_let_filling_through():
    detections = non_max_suppression(with_labels(PREDICTED[:, :0], LABELS, (40, 80)), conf_thres=0.0)
    assert [len(found) for found in detections] == [1, 2]


@pytest.mark.parametrize(("images", "nc"), [(0, 3), (2, 1)])
def test_no_labels_change_nothing(images, nc):
    decoded = torch.rand(images, 5, 5 + nc)
    assert torch.equal(with_labels(decoded, torch.zeros(0, 6), (64, 32)), decoded)
