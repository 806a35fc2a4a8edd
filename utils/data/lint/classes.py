"""Class names, and how often each class occurs."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from utils.data.config import Split
from utils.data.lint.findings import Finding
from utils.data.lint.survey import Survey


def check_classes(survey: Survey) -> list[Finding]:
    """Names that cannot be told apart or say nothing, and classes that are not there to be learnt or measured."""
    return [*_check_names(survey), *_check_counts(survey)]


def count_classes(survey: Survey, split: Split) -> NDArray[np.int64]:
    """(nc,) objects of each class in a split."""
    classes = [item.labels.boxes[:, 0].astype(np.int64) for item in survey.splits[split]]
    return np.bincount(np.concatenate([np.zeros(0, np.int64), *classes]), minlength=survey.config.nc)


def _check_names(survey: Survey) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, name in survey.config.names.items():
        plain = " ".join(name.split()).casefold()
        found = None
        if seen.setdefault(plain, index) != index:
            found = f"{name!r} for the classes {seen[plain]} and {index}"
        elif name != name.strip() or not plain:
            found = f"{name!r} for class {index}, blank at its ends"
        elif plain.isdecimal():
            found = f"{name!r} for class {index}, a number"
        if found:
            expected = "a name of its own for each class"
            yield Finding(survey.config.file, None, found, expected, "rename it", "class name")


def _check_counts(survey: Survey) -> Iterator[Finding]:
    for split in survey.splits:
        counts = count_classes(survey, split)
        if split == "test" or not counts.any():  # without any object, something else is wrong
            continue
        for index in np.flatnonzero(counts == 0).tolist():
            found = f"no object of class {index} ({survey.config.names[index]}) in {split}"
            remedy = "add some, or remove the class" if split == "train" else "add some; its AP cannot be measured"
            told = (found, "some of each class", remedy, "class without objects")
            yield Finding(survey.config.file, None, *told)
