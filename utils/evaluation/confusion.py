"""Which class is taken for which: the confusion matrix of a detector, with the background as a further class."""

import numpy as np
import torch

from utils.boxes import pairwise_iou
from utils.evaluation.matching import GroundTruth
from utils.nms import Detections


class ConfusionMatrix:
    """Counts of predicted class against true class.

    Attributes:
        matrix: (nc + 1, nc + 1) int64 counts, rows predicted, columns true; the last index is the background, so the
            last row holds missed labels and the last column false alarms.
    """

    def __init__(self, nc: int, *, conf: float = 0.25, iou: float = 0.45) -> None:
        """Start with zeros.

        Args:
            nc: Number of classes.
            conf: Only detections above this confidence count.
            iou: A detection can stand for a label only if they overlap by more than this.
        """
        self.matrix = np.zeros((nc + 1, nc + 1), dtype=np.int64)
        self.conf = conf
        self.iou = iou

    def update(self, detections: Detections, labels: GroundTruth) -> None:
        """Count one image; detection and label are paired by overlap alone, whatever their classes.

        Args:
            detections: Boxes in pixels of the original image.
            labels: Boxes in the same pixels.
        """
        background = len(self.matrix) - 1
        confident = detections.conf > self.conf
        predicted = detections.cls[confident].cpu().numpy()
        true = labels.cls.cpu().numpy()
        label_of = self._pair(pairwise_iou(detections.xyxy[confident], labels.xyxy)).cpu().numpy()
        paired = label_of >= 0
        missed = np.setdiff1d(np.arange(len(true)), label_of)
        np.add.at(self.matrix, (predicted[paired], true[label_of[paired]]), 1)
        np.add.at(self.matrix[:, background], predicted[~paired], 1)
        np.add.at(self.matrix[background], true[missed], 1)

    def _pair(self, overlap: torch.Tensor) -> torch.Tensor:
        """(n,) index of the label each of n detections stands for, -1 for none; each label at most once."""
        n, m = overlap.shape
        none = torch.full((n,), -1, dtype=torch.long, device=overlap.device)
        if n == 0 or m == 0:
            return none
        best_overlap, best_label = overlap.max(1)  # (n,)
        chosen = torch.nn.functional.one_hot(best_label, m).bool() & (best_overlap > self.iou)[:, None]  # (n, m)
        claims = overlap.masked_fill(~chosen, -1)  # (n, m)
        winner = claims.argmax(0)  # (m,) detection that overlaps the label most, of those that chose it
        label = torch.arange(m, device=overlap.device)
        won = claims[winner, label] >= 0
        none[winner[won]] = label[won]
        return none
