"""The kinds of errors of a detector, as TIDE defines them.

Bolya, Foley, Hays, Hoffman: TIDE: A General Toolbox for Identifying Object Detection Errors, 2020,
https://arxiv.org/abs/2008.08115. A detection is correct or not by the rule of `matching`.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from utils.boxes import pairwise_iou
from utils.evaluation.matching import GroundTruth, match_predictions
from utils.nms import Detections

FOREGROUND = 0.5
"""IoU from which on a detection is in the right place."""

BACKGROUND = 0.1
"""IoU below which it is on no object."""


class Kind(IntEnum):
    """What a detection is, or, for the last one, a label."""

    CORRECT = 0
    LOCALISATION = 1
    CLASS = 2
    BOTH = 3
    DUPLICATE = 4
    BACKGROUND = 5
    MISSED = 6


ERRORS = tuple(Kind)[1:]
MEANINGS = {
    Kind.LOCALISATION: "right class, too little overlap with the object",
    Kind.CLASS: "right place, wrong class",
    Kind.BOTH: "wrong class, and too little overlap",
    Kind.DUPLICATE: "on an object that a more confident detection found",
    Kind.BACKGROUND: "on no object",
    Kind.MISSED: "objects not found, not even nearly or as another class",
}


class ErrorTable(NamedTuple):
    """The kinds of n detections and m labels, of one image or of many.

    Attributes:
        conf: (n,) confidence.
        cls: (n,) class index.
        kind: (n,) `Kind` of each detection.
        label: (n,) the label it is right about, or would be if its class or place were mended; -1 for other kinds.
        label_cls: (m,) class index.
        missed: (m,) whether no detection is about the label.
    """

    conf: NDArray[np.float32]
    cls: NDArray[np.int64]
    kind: NDArray[np.int64]
    label: NDArray[np.int64]
    label_cls: NDArray[np.int64]
    missed: NDArray[np.bool_]


def error_table(detections: Detections, labels: GroundTruth) -> ErrorTable:
    """Give every detection of an image exactly one kind.

    Where several fit a false positive, the first of localisation, class, duplicate, background, both is taken, as in
    the tool of TIDE's authors.

    Args:
        detections: n boxes, most confident first.
        labels: m boxes in the same pixels.
    """
    n, m = len(detections), len(labels)
    conf, cls, label_cls = detections.conf.numpy(), detections.cls.numpy(), labels.cls.numpy()
    if n == 0 or m == 0:
        background, no_label = np.full(n, int(Kind.BACKGROUND)), np.full(n, -1)
        return ErrorTable(conf, cls, background, no_label, label_cls, np.ones(m, dtype=bool))
    overlap = pairwise_iou(detections.xyxy, labels.xyxy)  # (n, m)
    same_class = detections.cls[:, None] == labels.cls[None, :]
    same, same_label = overlap.masked_fill(~same_class, -1).max(1)  # (n,), (n,)
    other, other_label = overlap.masked_fill(same_class, -1).max(1)
    correct = match_predictions(detections, labels.cls, labels.xyxy, torch.tensor([FOREGROUND]))[:, 0]
    cases = {
        Kind.CORRECT: correct,
        Kind.LOCALISATION: (same >= BACKGROUND) & (same < FOREGROUND),
        Kind.CLASS: other >= FOREGROUND,
        Kind.DUPLICATE: same >= FOREGROUND,
        Kind.BACKGROUND: torch.maximum(same, other) < BACKGROUND,
    }
    kind = np.select([case.numpy() for case in cases.values()], [int(kind) for kind in cases], int(Kind.BOTH))
    of_own_class = np.isin(kind, (Kind.CORRECT, Kind.LOCALISATION))
    label = np.where(of_own_class, same_label.numpy(), np.where(kind == Kind.CLASS, other_label.numpy(), -1))
    return ErrorTable(conf, cls, kind, label, label_cls, ~np.isin(np.arange(m), label))


def join(tables: Sequence[ErrorTable]) -> ErrorTable:
    """One table of all images."""
    tables = [_NOTHING, *tables]
    first = np.cumsum([0, *(len(table.label_cls) for table in tables[:-1])])  # label of each table among all
    shifted = [
        table._replace(label=np.where(table.label < 0, -1, table.label + i))
        for table, i in zip(tables, first, strict=True)
    ]
    return ErrorTable(*(np.concatenate(parts) for parts in zip(*shifted, strict=True)))


_NOTHING = error_table(
    Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long)),
    GroundTruth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)),
)
