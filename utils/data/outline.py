"""Outlines of objects that are seen in several parts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def joined_outline(parts: Sequence[Points]) -> Points:
    """One outline of several: each further part is walked around on a bridge from the outline to it and back.

    The bridge leads between the nearest corners. As it is used in both directions it has no area, so that the outline
    filled is the parts filled.

    Args:
        parts: At least one outline (k, 2) x, y.

    Returns:
        (n, 2), where n is the number of all corners and 2 for each bridge.
    """
    outline = parts[0]
    for part in parts[1:]:
        distances = ((outline[:, None] - part[None]) ** 2).sum(axis=2)  # (n, k)
        here, there = np.unravel_index(distances.argmin(), distances.shape)
        outline = np.concatenate((outline[: here + 1], part[there:], part[: there + 1], outline[here:]))
    return outline
