"""Which of several same images a mended copy keeps, so that no object is lost that another of them has not."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from utils.data.config import Split
from utils.data.lint.duplicates import same_labels
from utils.data.lint.survey import Item

ImageInSplit = tuple[Split, Path]
"""An image in a split."""


def superfluous(splits: Mapping[Split, Sequence[Item]]) -> dict[ImageInSplit, str]:
    """Images to leave out, since the same one stays elsewhere, and why.

    Those with objects stay rather than those without, then those in the last split, and there one for each different
    set of objects: which of these is right only a person can say.

    Args:
        splits: Images that can be used, in the order of the splits; each split with sources of its own.
    """
    groups: dict[bytes, list[tuple[Split, Item]]] = {}
    for split, items in splits.items():
        for item in items:
            groups.setdefault(item.pixels, []).append((split, item))
    return {place: reason for group in groups.values() if len(group) > 1 for place, reason in _judge(group)}


def _judge(group: list[tuple[Split, Item]]) -> Iterator[tuple[ImageInSplit, str]]:
    """Each of the same images that is left out, and why."""
    candidates = [(split, item) for split, item in group if len(item.labels.boxes)] or group
    last = candidates[-1][0]
    kept: list[Item] = []
    for split, item in candidates:
        if split == last and not any(same_labels(item, other) for other in kept):
            kept.append(item)
    for split, item in group:
        if split == last and item in kept:
            continue
        equal = next((other for other in kept if same_labels(item, other)), None)
        other = equal or kept[0]
        reason = f"the same image as {other.image}" if split == last else f"is in {last} too: {other.image}"
        if not equal:
            reason += ", with other objects" if len(item.labels.boxes) else ", which has objects"
        yield (split, item.image), reason
