"""Parts of the compiled loops whose mistakes no value would show: what they fetch ahead, and where."""

import numpy as np
import pytest

kernels = pytest.importorskip("models.ops.cpu_kernels", reason="numba is not installed")
vectors = pytest.importorskip("models.ops.cpu_vectors", reason="numba is not installed")
numba = pytest.importorskip("numba")


def address(array):
    return array.ctypes.data


@numba.njit
def multiply(a, b, c, depth):
    vectors.product(numba.float32, (a, depth, 1), (b, vectors.WIDTH), (c, vectors.WIDTH), depth, ())


@numba.njit
def multiply_and_fetch(a, b, c, depth, places, start):
    ahead = kernels._ahead(places, 1, start, 64)
    vectors.product(numba.float32, (a, depth, 1), (b, vectors.WIDTH), (c, vectors.WIDTH), depth, ahead[1:3])


def factors(depth):
    rng = np.random.default_rng(0)
    a, b = rng.random((vectors.ROWS, depth), np.float32), rng.random((depth, vectors.WIDTH), np.float32)
    return a, b, np.full((vectors.ROWS, vectors.WIDTH), np.nan, np.float32)


@pytest.mark.parametrize("depth", [0, 1, 80])
def test_product_is_the_same_while_it_fetches(depth):
    a, b, c = factors(depth)
    multiply(address(a), address(b), address(c), depth)
    np.testing.assert_allclose(c, a @ b, rtol=1e-5)
    fetched = np.full_like(c, np.nan)
    # Nobody's memory: what is asked for may lie behind the end of a map.
    places = np.random.default_rng(1).integers(-(2**62), 2**62, (4, depth, 1))
    multiply_and_fetch(address(a), address(b), address(fetched), depth, places, 0)
    np.testing.assert_array_equal(fetched, c)


def test_only_products_with_something_ahead_fetch():
    a, b, c = factors(1)
    multiply(address(a), address(b), address(c), 1)
    multiply_and_fetch(address(a), address(b), address(c), 1, np.zeros((4, 1, 1), np.int64), address(c))
    (plain,), (fetching,) = (f.inspect_llvm().values() for f in (multiply, multiply_and_fetch))
    assert "llvm.prefetch" not in plain
    assert "llvm.prefetch" in fetching


@pytest.mark.parametrize("row", [32, 64, 128, 256, 384])
@pytest.mark.parametrize("steps", [16, 48])
def test_all_lines_of_a_tile_are_fetched_once(row, steps):
    height, width, n = 7, 5, 1
    rng = np.random.default_rng(2)
    top, left = rng.integers(0, height - 1, (kernels.TILE, n)), rng.integers(0, width - 1, (kernels.TILE, n))
    places = np.stack([((top + down) * width + left + right) * row for right in (0, 1) for down in (0, 1)])
    image = 1 << 20
    fetched = []
    ahead = kernels._ahead.py_func(places, 1, image, row)
    first = ahead[1]
    while ahead[0] >= steps:
        entry = (ahead[1] - first) // 8
        fetched += [(entry + i, ahead[2] - image) for i in range(steps)]
        ahead = kernels._further.py_func(ahead, steps)
    assert len(fetched) == len(set(fetched))
    pair = 2 * vectors.CACHE_LINE
    lines = {(places.flat[entry] + begin + line) // 64 for entry, begin in fetched for line in (0, 64)}
    assert {(place + byte) // 64 for place in places.flat for byte in range(0, row, 32)} <= lines
    assert all(begin % pair == 0 and begin < row for _, begin in fetched)


def test_nothing_is_fetched_behind_the_last_tile():
    places = np.zeros((4, kernels.TILE, 3), np.int64)
    assert kernels._ahead.py_func(places, 0, 0, 64)[0] == 0


@numba.njit
def find_corners(results, rows, columns, width, cell, count):
    vectors.corners(results, rows, columns, width, cell, count)


def test_corners_of_large_maps():
    # 50 000 x 50 000 cells of 1 KB: more than 32 bits hold, as a number of bytes or of cells.
    count = 2 * vectors.LANES
    rng = np.random.default_rng(3)
    rows, columns = (rng.integers(0, 50_000, (2, count), dtype=np.int32) for _ in range(2))
    found = np.zeros((4, count), np.int64)
    find_corners(
        tuple(map(address, found)), tuple(map(address, rows)), tuple(map(address, columns)), 50_000, 1024, count
    )
    expected = [(y.astype(np.int64) * 50_000 + x) * 1024 for x in columns for y in rows]
    np.testing.assert_array_equal(found, expected)
