"""The same image twice: within a split, and in two splits, which makes every figure of the second one too good.

Two images are the same if their files are, or if all their pixels are (stored in another format without loss, or with
other metadata). One that was compressed or resized looks alike: averaged to 16 x 16 pixels, colours differ by at most
`ALIKE` levels on average and `ALIKE_ANYWHERE` at worst. That is no proof, so such pairs are only shown.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from utils.data.config import Split
from utils.data.lint.boxes import corners_of, pairwise_iou
from utils.data.lint.findings import Finding
from utils.data.lint.survey import Item, Survey

ALIKE, ALIKE_ANYWHERE = 1.5, 12
"""Levels of 0..255. Of 200 photographs as JPEG of quality 30 or halved: 1.4 and 11; nearest two others: 5.7 and 56."""
SAME_OBJECT = 0.8
"""Intersection over union of boxes of one object that two people drew with care."""
_BLOCK = 256


def check_duplicates(survey: Survey) -> list[Finding]:
    """Images that occur twice."""
    findings = [finding for items in survey.splits.values() for finding in _within(items)]
    for first, second in combinations(survey.splits, 2):
        if is_shared(survey, first, second):
            found = f"the same images in {first} and {second}"
            expected = f"other images in {second}"
            remedy = "believe no figure of this split, or correct the YAML"
            findings.append(Finding(survey.config.file, None, found, expected, remedy, "shared source"))
        else:
            findings += _between(survey, first, second)
    return findings


def is_shared(survey: Survey, first: Split, second: Split) -> bool:
    """Whether the YAML names the same sources for two splits."""
    return bool(getattr(survey.config, first) == getattr(survey.config, second))


def same_labels(item: Item, other: Item) -> bool:
    """Whether each object of one image is in the other too, about in the same place."""
    first, second = item.labels.boxes, other.labels.boxes
    if not len(first) or not len(second):
        return len(first) == len(second)
    overlap = pairwise_iou(corners_of(first), corners_of(second)) * (first[:, :1] == second[:, 0])
    return len(first) == len(second) and bool(min(overlap.max(axis=0).min(), overlap.max(axis=1).min()) > SAME_OBJECT)


def _repeated(items: list[Item]) -> list[tuple[Item, Item]]:
    """Each item of which there is the same image before it, and that one."""
    seen: dict[bytes, Item] = {}
    pairs = [(item, seen.setdefault(item.pixels, item)) for item in items if item.shape]
    return [(item, original) for item, original in pairs if item is not original]


def _leaked(survey: Survey, first: Split, second: Split) -> list[tuple[Item, Item]]:
    """Each item of a split that is in another one too, and the item there."""
    others = {item.pixels: item for item in reversed(survey.splits[second]) if item.shape}
    return [(item, others[item.pixels]) for item in survey.splits[first] if item.shape and item.pixels in others]


def _within(items: list[Item]) -> Iterator[Finding]:
    for item, original in _repeated(items):
        found = f"{_how(item, original)} {original.image}"
        kind, remedy = "duplicate image", "delete one of the two"
        if not same_labels(item, original):
            kind, found = "contradicting labels", f"{found}, with other labels"
            remedy = "correct one and delete the other"
        yield Finding(item.image, None, found, "each image once", remedy, kind, (item.image, original.image))


def _between(survey: Survey, first: Split, second: Split) -> Iterator[Finding]:
    pairs = _leaked(survey, first, second)
    for item, other in pairs:
        found = f"{_how(item, other)} {other.image} in {second}" if item is not other else f"the same file in {second}"
        if not same_labels(item, other):
            found = f"{found}, with other labels"
        told = (found, f"no image of {second} in {first}", f"remove it from {first}", "leaked image")
        yield Finding(item.image, None, *told, images=(item.image, other.image))
    known = {id(item) for pair in pairs for item in pair}
    items, others = ([item for item in survey.splits[split] if item.shape] for split in (first, second))
    for item, other, difference in _lookalikes(items, others):
        if not {id(item), id(other)} & known:
            found = f"an image that looks like {other.image} in {second}"
            told = (
                found,
                f"other images in {first}",
                "look at both; if they are one, remove one",
                "lookalike image",
            )
            yield Finding(item.image, None, *told, images=(item.image, other.image), weight=-difference)


def _how(item: Item, other: Item) -> str:
    return "the same file as" if item.content == other.content else "the same pixels as"


def _lookalikes(items: list[Item], others: list[Item]) -> Iterator[tuple[Item, Item, float]]:
    """Pairs that look alike, with the mean difference of their thumbnails.

    The averages of two thumbnails differ by no more than that, so in their order each has only a few to look at.
    """
    if not items or not others:
        return
    items, others = (sorted(each, key=lambda item: float(item.thumbnail.mean())) for each in (items, others))
    left, right = (np.stack([item.thumbnail for item in each]).reshape(len(each), -1) for each in (items, others))
    averages = right.mean(axis=1)
    for row, thumbnail in enumerate(left):
        average = thumbnail.mean()
        start, end = np.searchsorted(averages, (average - ALIKE, average + ALIKE))
        for begin in range(start, end, _BLOCK):
            part = right[begin : min(begin + _BLOCK, end)]
            differences = np.abs(part.astype(np.int16) - thumbnail)  # (block, 768)
            means = differences.mean(axis=1)
            for index in np.flatnonzero((means <= ALIKE) & (differences.max(axis=1) <= ALIKE_ANYWHERE)).tolist():
                yield items[row], others[begin + index], float(means[index])
