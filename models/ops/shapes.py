"""Initial shapes: where the N points of an AKConv start, before the learned offsets move them."""

import math
from collections.abc import Callable, Sequence

Point = tuple[float, float]
"""(row, column) in input pixels, relative to the top-left of the output position; (0, 0) is that position itself."""

Shape = tuple[Point, ...]

MOST_POINTS = 1024
FARTHEST = 10_000
"""Limits of what can be meant; beyond them is a typing error that would cost all memory."""


def _grid(n: int) -> list[Point]:
    width = round(math.sqrt(n))
    return [(k // width, k % width) for k in range(n)]


def _cross(n: int) -> list[Point]:
    arm = (n + 2) // 4  # rings of four points around the centre
    ring = [(dr * k, dc * k) for k in range(1, arm + 1) for dr, dc in ((-1, 0), (0, -1), (0, 1), (1, 0))]
    return [(arm + row, arm + column) for row, column in [(0, 0), *ring][:n]]


_ANY_N: dict[str, Callable[[int], list[Point]]] = {
    "default": _grid,
    "line": lambda n: [(0, k) for k in range(n)],
    "column": lambda n: [(k, 0) for k in range(n)],
    "diagonal": lambda n: [(k, k) for k in range(n)],
    "cross": _cross,
}
_FIVE: dict[str, list[Point]] = {
    "a": [(0, 0), (0, 2), (1, 1), (2, 0), (2, 2)],
    "b": [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)],
    "c": [(0, 0), (0, 1), (0, 2), (0, 3), (1, 2)],
    "d": [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)],
    "e": [(0, 0), (1, 1), (1, 2), (1, 3), (2, 0)],
}
SHAPE_NAMES = (*_ANY_N, *_FIVE)
"""Names that `initial_shape` knows; `a` to `e` are the five-point shapes the authors compared."""


def initial_shape(n: int, shape: str | Sequence[Sequence[float]] | None = None) -> Shape:
    """The N starting points of an AKConv.

    Args:
        n: Number of points, at least 1.
        shape: One of `SHAPE_NAMES`, or n (row, column) points in pixels; None is "default", rows of round(sqrt(n))
            points from the top-left (https://arxiv.org/abs/2311.11587, algorithm 1).

    Returns:
        n (row, column) pairs.

    Raises:
        ValueError: If n is not in 1..1024, the name is not known, a coordinate is no sensible number, or the number of
            points is not n.
    """
    if not 1 <= n <= MOST_POINTS:
        raise ValueError(f"an AKConv has 1 to {MOST_POINTS} points, got {n}")
    if shape is None or isinstance(shape, str):
        name = shape or "default"
        if name in _ANY_N:
            points = _ANY_N[name](n)
        elif name in _FIVE:
            points = _FIVE[name]
        else:
            raise ValueError(f"unknown initial shape {name!r}; known: {', '.join(SHAPE_NAMES)}, or a list of points")
    else:
        try:
            points = [(float(row + 0.0), float(column + 0.0)) for row, column in shape]
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"every point of an initial shape is a (row, column) pair, got {shape!r}") from error
    if not all(abs(coordinate) < FARTHEST for point in points for coordinate in point):
        raise ValueError(f"the coordinates of an initial shape are pixels below {FARTHEST}, got {shape!r}")
    if len(points) != n:
        raise ValueError(f"initial shape {shape!r} has {len(points)} points, but N is {n}")
    return tuple((float(row), float(column)) for row, column in points)
