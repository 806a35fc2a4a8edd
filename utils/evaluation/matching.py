"""Which detections found an object: the assignment behind precision, recall and AP."""

from dataclasses import dataclass

import torch
from torch import Tensor

from utils.boxes import pairwise_iou
from utils.nms import Detections


@dataclass(frozen=True)
class GroundTruth:
    """The labelled objects of one image.

    Attributes:
        xyxy: (m, 4) float32 corners in pixels of the original image.
        cls: (m,) int64 class index.
    """

    xyxy: Tensor
    cls: Tensor

    def __post_init__(self) -> None:
        m = len(self.xyxy)
        if self.xyxy.shape != (m, 4) or self.cls.shape != (m,):
            raise ValueError(f"expected shapes (m, 4), (m,), got {tuple(self.xyxy.shape)}, {tuple(self.cls.shape)}")

    def __len__(self) -> int:
        return len(self.xyxy)


def match_predictions(
    detections: Detections, labels_cls: Tensor, labels_xyxy: Tensor, iou_thresholds: Tensor
) -> Tensor:
    """Decide for every detection, at every IoU threshold, whether it is a true positive.

    A detection stands for the label of its class that it overlaps most. Of several detections that stand for one
    label the most confident is right and the others are wrong, even if another label is still free.

    Args:
        detections: n detections of one image, most confident first.
        labels_cls: (m,) class index.
        labels_xyxy: (m, 4) corners, in the pixels of the detections.
        iou_thresholds: (k,) overlap at which a detection counts as found; each is judged on its own.

    Returns:
        (n, k) bool.
    """
    n, m, k = len(detections), len(labels_cls), len(iou_thresholds)
    if n == 0 or m == 0:
        return torch.zeros((n, k), dtype=torch.bool, device=detections.xyxy.device)
    overlap = pairwise_iou(detections.xyxy, labels_xyxy)  # (n, m)
    same_class = detections.cls[:, None] == labels_cls[None, :]  # (n, m)
    best_overlap, best_label = overlap.masked_fill(~same_class, -1).max(1)  # (n,), (n,)
    found = best_overlap[:, None] >= iou_thresholds  # (n, k)
    stands_for = torch.nn.functional.one_hot(best_label, m).bool()  # (n, m)
    claims = found[:, None, :] & stands_for[:, :, None]  # (n, m, k)
    first = claims.cumsum(0) == 1
    return (claims & first).any(1)
