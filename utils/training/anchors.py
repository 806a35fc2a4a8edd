"""Anchors for a data set: how well they suit it, and better ones."""

import dataclasses
import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.errors import UserError

log = logging.getLogger(__name__)

_ENOUGH_RECALL = 0.98
_TINY_OBJECT = 3
_SMALLEST = 2.0
"""Pixels: no anchor becomes smaller, and objects with no side that long do not count in finding them."""
_GENERATIONS = 1000
_LARGEST_SAMPLE = 10_000
"""Objects that the search looks at: the mean over them is known to about 0.002."""
_KMEANS_STARTS, _KMEANS_STEPS = 10, 30

Sizes = NDArray[np.float64]


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
    shapes: Sequence[tuple[int, int]], labels: Sequence[np.ndarray], imgsz: int, *, zoom: float = 0.1, seed: int = 0
) -> Tensor:
    """Sizes of all objects as the network will see them.

    Args:
        shapes: (h, w) of each image.
        labels: Per image (n, 5) class, cx, cy, w, h, normalised.
        imgsz: Long side of the network input, pixels.
        zoom: Largest random zoom per image, in or out, which stands for augmentation.
        seed: Of the zoom.

    Returns:
        (N, 2) w, h in pixels of the network input, float32.
    """
    zooms = np.random.default_rng(seed).uniform(1 - zoom, 1 + zoom, len(shapes))
    sizes = [
        rows[:, 3:5] * np.array((w, h)) * (imgsz / max(h, w) * z)
        for (h, w), rows, z in zip(shapes, labels, zooms, strict=True)
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


def suit_anchors(
    anchors: Tensor,
    stride: Tensor,
    shapes: Sequence[tuple[int, int]],
    labels: Sequence[np.ndarray],
    imgsz: int,
    anchor_t: float,
    *,
    seed: int = 0,
) -> Tensor:
    """The anchors of a model, or better ones if they reach too few of the objects of a data set.

    Args:
        anchors: (L, A, 2) w, h in pixels; where one is not above 0 they are still to be found.
        stride: (L,) input pixels per cell.
        shapes: (h, w) of each image.
        labels: Per image (n, 5) class, cx, cy, w, h, normalised.
        imgsz: Long side of the network input, pixels.
        anchor_t: Largest ratio of sides at which an anchor takes an object.
        seed: Of the search.

    Returns:
        (L, A, 2) in pixels: `anchors` itself, or others that reach more objects, larger ones on levels of larger
        stride.

    Raises:
        UserError: If anchors have to be found and no object tells how large.
    """
    seen, exact = object_sizes(shapes, labels, imgsz), object_sizes(shapes, labels, imgsz, zoom=0)
    given = bool((anchors > 0).all())
    before = anchor_fit(seen, anchors.view(-1, 2), anchor_t).recall if given else -1.0
    if before <= _ENOUGH_RECALL:
        found = find_anchors(exact, anchors.shape[:2].numel(), anchor_t, seed=seed)
        if found is None and not given:
            raise UserError(
                f"anchors have to be found, but no object is {_SMALLEST:g} px or larger at --imgsz {imgsz}; give them "
                "in the model YAML as rows of widths and heights in pixels, one row a level, or raise --imgsz"
            )
        if found is not None and anchor_fit(seen, found, anchor_t).recall > before:
            levels = torch.empty_like(anchors)
            levels[stride.argsort().to(anchors.device)] = found.view_as(anchors).to(anchors)
            log.info("new anchors, w x h in pixels: %s", ", ".join(f"{w:g} x {h:g}" for w, h in found.tolist()))
            anchors = levels
        else:
            log.info("searched for new anchors: none reach more objects, those of the model are kept")
    report_anchor_fit(seen, anchors.reshape(-1, 2).to(seen), anchor_t)
    return anchors


def find_anchors(sizes: Tensor, count: int, anchor_t: float, *, seed: int = 0) -> Tensor | None:
    """Anchors for objects: k-means on their sizes, then random changes of which every better one is kept.

    What is maximised is the mean over the objects of how alike an object and its best anchor are: the smaller ratio
    of their sides, 0 if no anchor takes the object.

    Args:
        sizes: (N, 2) w, h of objects, pixels; as few as one will do.
        count: Number of anchors.
        anchor_t: Largest ratio of sides at which an anchor takes an object.
        seed: The same sizes and seed give the same anchors.

    Returns:
        (count, 2) w, h in pixels, by area, float32, rounded to 0.1; None if no object is large enough.

    Source: behaviour of YOLOv5's AutoAnchor; k-means++ https://dl.acm.org/doi/10.5555/1283383.1283494.
    """
    every = sizes.double().numpy()
    usable = every[(every > 0).all(1) & (every >= _SMALLEST).any(1)]
    if len(usable) == 0:
        return None
    if tiny := int((every < _TINY_OBJECT).any(1).sum()):
        log.warning("%d of %d objects have a side below %d px and are hard to find", tiny, len(every), _TINY_OBJECT)
    rng = np.random.default_rng(seed)
    if len(usable) > _LARGEST_SAMPLE:
        usable = rng.choice(usable, _LARGEST_SAMPLE, replace=False)
    anchors = _refine(_start(usable, count, rng), np.log(usable).T, math.log(anchor_t), rng)
    ordered = anchors[np.argsort(anchors.prod(1), kind="stable")]
    return torch.from_numpy(ordered.round(1)).float()


def _start(sizes: Sizes, count: int, rng: np.random.Generator) -> Sizes:
    """(count, 2) centres of clusters; around objects of few sizes, larger and smaller ones by quarters of an octave."""
    distinct = np.unique(sizes, axis=0)
    if len(distinct) > count:
        # Of logarithms, as the fit is one of ratios: on coco128 the centres, as they are, reach 99.8 % of the objects,
        # those of sizes divided by their deviation 95.7 %, and after 1000 changes 99.4 %.
        starts = np.exp(_kmeans(np.log(sizes), count, rng))
    else:
        steps = np.arange(1, -(-count // len(distinct)) + 1)
        factors = 2.0 ** (steps // 2 * np.where(steps % 2, -1, 1) / 4)  # 1, 2^(1/4), 2^(-1/4), 2^(2/4), ...
        starts = (factors[:, None, None] * distinct).reshape(-1, 2)[:count]
    return np.maximum(starts, _SMALLEST)


def _kmeans(points: Sizes, count: int, rng: np.random.Generator) -> Sizes:
    """(count, 2) centres, the best of several starts; `points` has more than `count` different rows."""
    best, best_distance = points[:count], math.inf
    for _ in range(_KMEANS_STARTS):
        centres = _spread(points, count, rng)
        for _ in range(_KMEANS_STEPS):
            nearest = _squared_distances(points, centres).argmin(1)
            number = np.bincount(nearest, minlength=count)
            sums = np.stack([np.bincount(nearest, axis, count) for axis in points.T], axis=1)
            moved = np.where(number[:, None] > 0, sums / np.maximum(number, 1)[:, None], centres)
            if np.array_equal(moved, centres):
                break
            centres = moved
        distance = _squared_distances(points, centres).min(1).sum()
        if distance < best_distance:
            best, best_distance = centres, distance
    return best


def _spread(points: Sizes, count: int, rng: np.random.Generator) -> Sizes:
    """Points to start from, each drawn with a probability that grows with its distance from those before."""
    chosen = [points[rng.integers(len(points))]]
    while len(chosen) < count:
        distance = _squared_distances(points, np.array(chosen)).min(1)
        chosen.append(points[rng.choice(len(points), p=distance / distance.sum())])
    return np.array(chosen)


def _squared_distances(points: Sizes, centres: Sizes) -> Sizes:
    return np.stack([((points - centre) ** 2).sum(1) for centre in centres], axis=1)  # (N, K)


def _refine(anchors: Sizes, log_sizes: Sizes, log_t: float, rng: np.random.Generator) -> Sizes:
    """Change random sides by up to a few tens of per cent, and keep every change for the better."""
    fitness = _likeness(anchors, log_sizes, log_t)
    for _ in range(_GENERATIONS):
        factors = np.ones_like(anchors)
        while (factors == 1).all():
            change = rng.random() * rng.standard_normal(anchors.shape) * (rng.random(anchors.shape) < 0.9)
            factors = np.clip(1 + 0.1 * change, 0.3, 3.0)
        changed = np.maximum(anchors * factors, _SMALLEST)
        likeness = _likeness(changed, log_sizes, log_t)
        if likeness > fitness:
            anchors, fitness = changed, likeness
    return anchors


def _likeness(anchors: Sizes, log_sizes: Sizes, log_t: float) -> float:
    """What `find_anchors` maximises; ratios are differences of logarithms (2, N)."""
    widths, heights = log_sizes
    nearest = np.full(len(widths), np.inf)
    for width, height in np.log(anchors).tolist():
        np.minimum(nearest, np.maximum(np.abs(widths - width), np.abs(heights - height)), out=nearest)
    return float(np.exp(-nearest[nearest < log_t]).sum() / len(nearest))
