"""Whether one run is better than another, or only luckier with the images: a paired bootstrap over images.

Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile interval).
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError
from utils.evaluation.bootstrap import WeightedAP, resampled
from utils.evaluation.metrics import Floats
from utils.evaluation.record import Record

CONFIDENCE = 0.95
BETTER, WORSE = "better", "worse"
MIN_IMAGES = 10
"""With labels in fewer images than this no interval is given: images that are so few stand for nothing."""

_TOLERANCE = 0.5  # pixels by which a label may move because the image was resized to another size


@dataclass(frozen=True)
class Difference:
    """One measure of two runs.

    Attributes:
        this: Of this run.
        baseline: Of the other run.
        interval: Where this - baseline lies with 95 % confidence; None where there are too few images.
    """

    this: float
    baseline: float
    interval: tuple[float, float] | None

    @property
    def delta(self) -> float:
        """This run minus the other."""
        return self.this - self.baseline

    @property
    def verdict(self) -> str:
        """What the interval says, in words."""
        if self.interval is None:
            return "too few images"
        low, high = self.interval
        if low > 0:
            return BETTER
        return WORSE if high < 0 else "no clear difference"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"delta": self.delta, "verdict": self.verdict}


@dataclass(frozen=True)
class ClassDifference:
    """One class in two runs.

    Attributes:
        index: Class index.
        name: Class name.
        images: Images with a label of the class.
        instances: Labels of the class.
        map50: AP at IoU 0.5.
        map: AP averaged over IoU 0.5 to 0.95.
    """

    index: int
    name: str
    images: int
    instances: int
    map50: Difference
    map: Difference


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same images.

    Attributes:
        images: How many.
        instances: Labels in them.
        replicates: Data sets resampled.
        seed: Of the resampling.
        map50: Mean over the classes that have labels, of AP at IoU 0.5.
        map: The same, averaged over IoU 0.5 to 0.95.
        per_class: The classes that have labels, by index.
    """

    images: int
    instances: int
    replicates: int
    seed: int
    map50: Difference
    map: Difference
    per_class: list[ClassDifference]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        names = ("images", "instances", "replicates", "seed")
        rows = [
            {"index": row.index, "name": row.name, "images": row.images, "instances": row.instances}
            | {"map50": row.map50.to_dict(), "map": row.map.to_dict()}
            for row in self.per_class
        ]
        measures = {"map50": self.map50.to_dict(), "map": self.map.to_dict()}
        head = {name: getattr(self, name) for name in names}
        return head | {"confidence": CONFIDENCE} | measures | {"per_class": rows}


def compare(this: Record, baseline: Record, *, replicates: int = 1000, seed: int = 0) -> Comparison:
    """Compare two runs on the same images.

    Both runs are measured on the same resampled data sets, each of which draws as many images as there are, with
    replacement. The interval of a difference holds the middle 95 % of its values.

    Args:
        this: One run.
        baseline: The other.
        replicates: How many data sets to draw.
        seed: Of the draws.

    Raises:
        UserError: If the runs saw other classes, images or labels.
    """
    check_classes(baseline, dict(enumerate(this.classes.tolist())))
    place = _places(this, baseline)
    n = len(place)
    runs = WeightedAP(this, np.arange(n)), WeightedAP(baseline, place)
    classes = runs[0].classes
    check_labels(len(classes))
    points = _measures(np.stack([run(np.ones((1, n), dtype=np.int32)) for run in runs]))[:, 0]  # (runs, c + 1, 2)
    draws = _measures(resampled(runs, n, replicates=replicates, seed=seed))  # (runs, replicates, c + 1, 2)
    images, instances = _label_counts(this, classes)
    few = np.append(images, n) < MIN_IMAGES
    bounds = np.full((2, *points.shape[1:]), np.nan)
    tail = 100 * (1 - CONFIDENCE) / 2
    bounds[:, ~few] = np.nanpercentile((draws[0] - draws[1])[:, ~few], (tail, 100 - tail), axis=0)

    def difference(row: int, measure: int) -> Difference:
        ours, theirs = points[:, row, measure].tolist()
        return Difference(ours, theirs, None if few[row] else tuple(bounds[:, row, measure].tolist()))

    return Comparison(
        images=n,
        instances=len(this.label_cls),
        replicates=replicates,
        seed=seed,
        map50=difference(-1, 0),
        map=difference(-1, 1),
        per_class=[
            ClassDifference(
                index=int(cls),
                name=str(this.classes[cls]),
                images=int(images[row]),
                instances=int(instances[row]),
                map50=difference(row, 0),
                map=difference(row, 1),
            )
            for row, cls in enumerate(classes)
        ],
    )


def check_classes(baseline: Record, names: dict[int, str]) -> None:
    """Refuse to compare with a run that knew other classes.

    Args:
        baseline: The other run.
        names: Class index -> name, of this run.

    Raises:
        UserError: If they differ.
    """
    ours, theirs = [names[index] for index in sorted(names)], baseline.classes.tolist()
    if len(ours) != len(theirs):
        found = f"this one has {len(ours)} classes, the other {len(theirs)}"
    elif ours != theirs:
        index = next(i for i, name in enumerate(ours) if name != theirs[i])
        found = f"class {index} is {ours[index]!r} here and {theirs[index]!r} in the other"
    else:
        return
    raise UserError(f"the runs cannot be compared: {found}; compare runs on the same data set")


def check_labels(count: int) -> None:
    """Refuse to compare runs on images without labels.

    Args:
        count: Labels in all images.

    Raises:
        UserError: If there are none.
    """
    if not count:
        raise UserError("the runs cannot be compared: their images have no labels; take a split that has some")


def check_images(baseline: Record, images: NDArray[np.str_]) -> None:
    """Refuse to compare with a run that saw other images.

    Args:
        baseline: The other run.
        images: `image_names` of this run, in any order.

    Raises:
        UserError: If they differ.
    """
    if not np.array_equal(np.sort(images), np.sort(baseline.images)):
        here, there = set(images.tolist()), set(baseline.images.tolist())
        only = [_some(here - there, "only in this run"), _some(there - here, "only in the other")]
        found = ", ".join(text for text in only if text) or "some images are in one of them more often"
        raise UserError(f"the runs cannot be compared: {found}; evaluate both on the same split of the same data")


def _some(images: set[str], where: str) -> str:
    return f"{len(images)} images are {where}, such as {min(images)}" if images else ""


def _places(this: Record, baseline: Record) -> NDArray[np.intp]:
    """(n,) which image of this run each image of the baseline is."""
    check_images(baseline, this.images)
    ours, theirs = np.argsort(this.images, kind="stable"), np.argsort(baseline.images, kind="stable")
    place = np.empty_like(ours)
    place[theirs] = ours
    _check_labels(this, baseline, place)
    return place


def _check_labels(this: Record, baseline: Record, place: NDArray[np.intp]) -> None:
    """Refuse labels that differ, image by image and in their order."""
    differs = this.label_counts[place] != baseline.label_counts
    if not differs.any():
        theirs = np.argsort(place[baseline.label_image], kind="stable")  # in the order of this run
        other_class = this.label_cls != baseline.label_cls[theirs]
        moved = np.abs(this.label_xyxy - baseline.label_xyxy[theirs]).max(axis=1, initial=0) > _TOLERANCE
        differs[np.isin(place, this.label_image[other_class | moved])] = True
    if differs.any():
        example = min(baseline.images[differs].tolist())
        raise UserError(
            f"the runs cannot be compared: the labels of {differs.sum()} images differ, such as those of {example}; "
            "evaluate the other run again with the present labels"
        )


def _measures(ap: Floats) -> Floats:
    """(..., c, k) AP -> (..., c + 1, 2): AP50 and AP50-95 of each class, and below the means over the classes."""
    both = np.stack((ap[..., 0], ap.mean(-1)), axis=-1)
    present = (~np.isnan(both)).sum(-2, keepdims=True)
    mean = np.where(present > 0, np.nansum(both, axis=-2, keepdims=True) / np.maximum(present, 1), np.nan)
    return np.concatenate((both, mean), axis=-2)


def _label_counts(record: Record, classes: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(c,) images with a label of each class, and (c,) labels of it."""
    pairs = np.unique(np.stack((record.label_cls, record.label_image)), axis=1)
    images, instances = (np.bincount(cls, minlength=len(record.classes)) for cls in (pairs[0], record.label_cls))
    return images[classes], instances[classes]
