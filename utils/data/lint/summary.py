"""A data set in figures."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.data.lint.classes import count_classes
from utils.data.lint.survey import Item, Survey

_QUANTILES = {"5 %": 0.05, "25 %": 0.25, "50 %": 0.5, "75 %": 0.75, "95 %": 0.95}


def summarise(survey: Survey) -> dict[str, Any]:
    """Images, objects, classes and sizes of each split; plain values.

    The side of a box is the root of its area, in pixels of the image.
    """
    summary: dict[str, Any] = {}
    for split, items in survey.splits.items():
        objects = np.array([len(item.labels.boxes) for item in items], np.int64)
        shapes = np.array([item.shape for item in items if item.shape], np.int64).reshape(-1, 2)
        counts = count_classes(survey, split).tolist()
        summary[split] = {
            "images": len(items),
            "backgrounds": int((objects == 0).sum()),
            "unusable images": len(items) - len(shapes),
            "objects": int(objects.sum()),
            "objects in an image": _quantiles(objects),
            "side of a box": _quantiles(np.sqrt(box_sizes(items).prod(axis=1))),
            "width of an image": _quantiles(shapes[:, 1]),
            "height of an image": _quantiles(shapes[:, 0]),
            "objects of a class": {f"{i} {name}": counts[i] for i, name in survey.config.names.items()},
        }
    return summary


def box_sizes(items: list[Item]) -> NDArray[np.float64]:
    """(n, 2) width and height in pixels of all boxes of the images that can be used."""
    sizes = [item.labels.boxes[:, 3:5] * np.array(item.shape[::-1], np.float64) for item in items if item.shape]
    return np.concatenate([np.zeros((0, 2)), *sizes])


def _quantiles(values: NDArray[Any]) -> dict[str, float] | None:
    if not len(values):
        return None
    named = {name: np.quantile(values, part) for name, part in _QUANTILES.items()}
    figures = {"least": values.min(), **named, "most": values.max(), "mean": values.mean()}
    return {name: round(float(value), 2) for name, value in figures.items()}
