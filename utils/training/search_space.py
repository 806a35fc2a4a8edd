"""Where --evolve looks for better hyperparameters."""

import dataclasses

from utils.training.hyp import Hyp

_WIDEST = 3.0


@dataclasses.dataclass(frozen=True)
class Range:
    """The values of one hyperparameter that are tried.

    Attributes:
        low: Smallest.
        high: Largest.
        log: Whether ratios count instead of differences.
    """

    low: float
    high: float
    log: bool


_BOUNDS: dict[str, tuple[float, float, float]] = {
    "lr0": (1e-5, 0.1, 1),
    "lrf": (0.01, 1, 1),
    "momentum": (0.6, 0.98, 0.3),
    "weight_decay": (0, 0.001, 1),
    "warmup_epochs": (0, 5, 1),
    "warmup_momentum": (0, 0.95, 1),
    "warmup_bias_lr": (0, 0.2, 1),
    "box": (0.02, 0.2, 1),
    "cls": (0.2, 4, 1),
    "cls_pw": (0.5, 2, 1),
    "obj": (0.2, 4, 1),
    "obj_pw": (0.5, 2, 1),
    "anchor_t": (2, 8, 1),
    "anchors": (2, 10, 2),
    "hsv_h": (0, 0.1, 1),
    "hsv_s": (0, 0.9, 1),
    "hsv_v": (0, 0.9, 1),
    "degrees": (0, 45, 1),
    "translate": (0, 0.9, 1),
    "scale": (0, 0.9, 1),
    "shear": (0, 10, 1),
    "flipud": (0, 1, 1),
    "mosaic": (0, 1, 1),
    "mixup": (0, 1, 1),
    "copy_paste": (0, 1, 1),
}
"""Smallest, largest and gain of every hyperparameter that YOLOv5 v7.0 changes. (Its gains of `iou_t`, `perspective`,
`fliplr` and `fl_gamma` are 0.)"""


def search_space(base: Hyp) -> dict[str, Range]:
    """What is tried, around the values to start from.

    A value may change by a factor of up to 3 ** gain either way, which is how far a mutation goes in YOLOv5. What is
    off at the start, and therefore has no factor, may be turned on up to a third of its bound. `anchors` is tried only
    if it was given.

    Args:
        base: Start, which lies in every range even if it is out of the bounds.

    Returns:
        Name of each hyperparameter -> its range.
    """
    ranges = {}
    for key, (low, high, gain) in _BOUNDS.items():
        start = getattr(base, key)
        if start is not None:
            factor = _WIDEST**gain
            least, most = (max(low, start / factor), min(high, start * factor)) if start else (low, high / factor)
            ranges[key] = Range(min(least, start), max(most, start), log=start > 0)
    return ranges
