import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ops import SHAPE_NAMES, initial_shape


@given(n=st.integers(1, 60), name=st.sampled_from(["default", "line", "column", "diagonal", "cross"]))
def test_any_number_of_distinct_points_from_the_top_left(n, name):
    points = initial_shape(n, name)
    assert len(set(points)) == n
    assert min(row for row, _ in points) >= 0
    assert min(column for _, column in points) >= 0


def test_named_shapes():
    assert initial_shape(5) == ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))
    assert initial_shape(5, "cross") == ((1, 1), (0, 1), (1, 0), (1, 2), (2, 1))
    assert initial_shape(5, "d") == initial_shape(5, "diagonal")
    assert {len(initial_shape(5, name)) for name in SHAPE_NAMES} == {5}


def test_own_points_keep_fractions_and_signs():
    assert initial_shape(2, [(-1, 0.5), (2, 3)]) == ((-1.0, 0.5), (2.0, 3.0))


@pytest.mark.parametrize(
    ("n", "shape", "message"),
    [
        (0, None, "1 to 1024 points, got 0"),
        (10**12, None, "1 to 1024"),
        (1, [(0, float("nan"))], "pixels below"),
        (4, "a", "5 points, but N is 4"),
        (1, [(1, 2, 3)], "pair"),
        (2, [0, 1], "pair"),
        (1, [("0", "1")], "pair"),
        (1, [(0, 1j)], "pair"),
        (3, "x", "known: default"),
    ],
)
def test_mistakes_are_named(n, shape, message):
    with pytest.raises(ValueError, match=message):
        initial_shape(n, shape)
