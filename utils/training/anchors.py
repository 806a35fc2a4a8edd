"""How well anchors suit a data set."""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)

_ENOUGH_RECALL = 0.98


@dataclasses.dataclass(frozen=True)
class AnchorFit:
    """How many objects the anchors reach.

    Attributes:
        recall: Share of objects that at least one anchor takes; no training can find more.
        per_object: Mean number of anchors that take an object.
    """

    recall: float
    per_object: float


def object_sizes(
    shapes: Sequence[tuple[int, int]], labels: Sequence[np.ndarray], imgsz: int, *, seed: int = 0
) -> Tensor:
    """Sizes of all objects as the network will see them.

    Args:
        shapes: (h, w) of each image.
        labels: Per image (n, 5) class, cx, cy, w, h, normalised.
        imgsz: Long side of the network input, pixels.
        seed: Of the zoom of up to 10 % per image, which stands for augmentation.

    Returns:
        (N, 2) w, h in pixels of the network input, float32.
    """
    zoom = np.random.default_rng(seed).uniform(0.9, 1.1, len(shapes))
    sizes = [
        rows[:, 3:5] * np.array((w, h)) * (imgsz / max(h, w) * z)
        for (h, w), rows, z in zip(shapes, labels, zoom, strict=True)
    ]
    return torch.from_numpy(np.concatenate([np.zeros((0, 2)), *sizes])).float()


def anchor_fit(sizes: Tensor, anchors: Tensor, anchor_t: float) -> AnchorFit:
    """How many objects the anchors reach under the rule of `assign_targets`.

    Args:
        sizes: (N, 2) w, h of objects, pixels.
        anchors: (K, 2) w, h of all anchors of all levels, pixels.
        anchor_t: Largest ratio of sides.

    Returns:
        Both numbers; 1 and 0 if there is no object.
    """
    if len(sizes) == 0:
        return AnchorFit(1.0, 0.0)
    ratio = sizes[:, None] / anchors[None]  # (N, K, 2)
    taken = torch.minimum(ratio, 1 / ratio).amin(-1) > 1 / anchor_t  # (N, K)
    return AnchorFit(taken.any(1).float().mean().item(), taken.sum(1).float().mean().item())


def report_anchor_fit(sizes: Tensor, anchors: Tensor, anchor_t: float) -> None:
    """Log how well the anchors suit the objects, and warn if some objects cannot be learned; see `anchor_fit`."""
    fit = anchor_fit(sizes, anchors, anchor_t)
    log.info("anchors: best possible recall %.4f, %.2f anchors per object", fit.recall, fit.per_object)
    if fit.recall < _ENOUGH_RECALL:
        log.warning(
            "%.1f %% of the objects are not like any anchor (sides differ by more than anchor_t %g) and cannot be "
            "learned; set anchors for your objects in the model YAML, change --imgsz or raise anchor_t",
            100 * (1 - fit.recall),
            anchor_t,
        )
