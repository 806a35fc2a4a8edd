"""Parts of the compiled loops by themselves: mistakes that no value would show, as in what they fetch ahead."""

import ctypes

import numpy as np
import pytest

numba = pytest.importorskip("numba")
jit = pytest.importorskip("models.ops.cpu_jit")
calls = pytest.importorskip("models.ops.cpu_calls")
kernels = pytest.importorskip("models.ops.cpu_kernels")
products = pytest.importorskip("models.ops.cpu_products")
vectors = pytest.importorskip("models.ops.cpu_vectors")

LINE = vectors.CACHE_LINE
C_TYPES = {numba.float32: ctypes.c_float, numba.int32: ctypes.c_int32, numba.int64: ctypes.c_int64}


def address(array):
    return array.ctypes.data


def lines_of(start, size):
    return set(range(start // LINE, (start + size - 1) // LINE + 1))


@numba.njit
def multiply(a, b, c, depth):
    vectors.product(numba.float32, (a, depth, 1), (b, vectors.WIDTH), (c, vectors.WIDTH), depth, vectors.WIDTH, ())


@numba.njit
def multiply_half(a, b, c, depth):
    vectors.product(numba.float32, (a, depth, 1), (b, vectors.WIDTH), (c, vectors.WIDTH), depth, vectors.LANES, ())


@numba.njit
def multiply_and_fetch(a, b, c, depth, places, start):
    ahead = products.to_fetch(places, True, start, 64)
    left, right, result = (a, depth, 1), (b, vectors.WIDTH), (c, vectors.WIDTH)
    vectors.product(numba.float32, left, right, result, depth, vectors.WIDTH, ahead[1:3])


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


@pytest.mark.parametrize("depth", [0, 1, 80])
def test_half_a_product_leaves_the_other_half(depth):
    a, b, c = factors(depth)
    b[:, vectors.LANES :] = np.nan
    multiply_half(address(a), address(b), address(c), depth)
    half = b[:, : vectors.LANES]
    np.testing.assert_allclose(c[:, : vectors.LANES], a @ half, rtol=1e-5)
    assert np.isnan(c[:, vectors.LANES :]).all()


def test_only_products_with_something_ahead_fetch():
    a, b, c = factors(1)
    multiply(address(a), address(b), address(c), 1)
    multiply_and_fetch(address(a), address(b), address(c), 1, np.zeros((4, 1, 1), np.int64), address(c))
    (plain,), (fetching,) = (f.inspect_llvm().values() for f in (multiply, multiply_and_fetch))
    assert "llvm.prefetch" not in plain
    assert "llvm.prefetch" in fetching


@numba.njit
def turn(a, down, c, across):
    vectors.transpose(numba.float32, (a, down), (c, across))


def test_transpose():
    lanes = vectors.LANES
    a = np.random.default_rng(0).random((lanes, lanes + 3), np.float32)
    c = np.full((lanes, lanes + 5), np.nan, np.float32)
    turn(address(a), lanes + 3, address(c), lanes + 5)
    np.testing.assert_array_equal(c[:, :lanes], a[:, :lanes].T)
    assert np.isnan(c[:, lanes:]).all()


@numba.njit
def add(real, target, terms, count):
    vectors.add(numba.float32, target, terms, count)


@pytest.mark.parametrize("count", [0, 1, 5, 16, 19])
def test_sums_touch_nothing_behind(count):
    a, b = np.random.default_rng(0).random((2, count), np.float32)
    target = np.full(count + 40, np.nan, np.float32)
    add(None, address(target), (address(a), np.float32(3), address(b)), count)
    np.testing.assert_array_equal(target[:count], a + np.float32(3) + b)
    assert np.isnan(target[count:]).all()


@numba.njit
def find_taps(last, margin, outside, results, count):
    vectors.taps(last, margin, outside, results, count)


@numba.njit
def find_corners(results, rows, columns, width, cell, count):
    vectors.corners(results, rows, columns, width, cell, count)


@pytest.mark.parametrize(("cell_bytes", "rounds"), [(32, 0.5), (64, 0.5), (128, 1), (320, 3), (512, 4)])
@pytest.mark.parametrize("steps", [7, 48, 200, 288])
def test_every_pair_is_fetched(cell_bytes, rounds, steps):
    places = np.zeros((4, kernels.TILE, 3), np.int64)
    ahead = products.to_fetch.py_func(places, True, 1 << 20, cell_bytes)
    fetched = []
    while ahead[0] >= steps and len(fetched) < 10_000:
        _, place, start = ahead[:3]
        fetched += [((place - address(places)) // 8 + k, start) for k in range(steps)]
        ahead = products.still_to_fetch.py_func(ahead, steps)
    assert len(set(fetched)) == rounds * places.size
    assert len(fetched) < len(set(fetched)) + steps * max(rounds, 1)
    assert {start for _, start in fetched} == set(range(1 << 20, (1 << 20) + cell_bytes, 2 * LINE))
    assert min(fetched)[0] == 0
    assert max(fetched)[0] == min(rounds, 1) * places.size - 1


class Watched:
    """The loops run as Python, with vector instructions that note the cache lines they are asked for.

    Products and sampling take turns: `fetched[i]` is asked for by the products before tile i is sampled, `read[i]` and
    `written[i]` by its sampling. `rows` are asked for besides; `late` is what a product reads as its second factor
    before.
    """

    def __init__(self, monkeypatch):
        self.fetched, self.read, self.written, self.rows, self.late = [set()], [], [], set(), set()
        fetch = products.to_fetch.py_func
        compiled = {
            k: value.py_func for m in (kernels, products) for k, value in vars(m).items() if hasattr(value, "py_func")
        }
        replaced = compiled | {
            "to_fetch": lambda places, *rest: self.note(places) or fetch(places, *rest),
            "pointer": lambda address, kind: (int(address), kind),
            "carray": self.array,
            "add": lambda real, target, terms, count: add(None, int(target), terms, count),
            "taps": lambda last, *rest: find_taps(last, *map(np.float32, rest[:2]), *rest[2:]),
            "corners": find_corners,
            "blend": self.blend,
            "spread": self.spread,
            "slopes": lambda *_: None,
            "fetch": lambda place, size: self.rows.update((place + k) // LINE for k in range(0, size, LINE)),
            "product": self.product,
            "add_product": self.product,
        }
        for module in kernels, products:
            for name in replaced.keys() & vars(module).keys():
                monkeypatch.setattr(module, name, replaced[name])

    @staticmethod
    def array(pointer, shape):
        place, kind = pointer
        return np.ctypeslib.as_array((C_TYPES[kind] * int(np.prod(shape))).from_address(int(place))).reshape(shape)

    def note(self, places):
        self.places = address(places), places.nbytes

    def blend(self, out, cells, weights, count):
        if len(self.read) < len(self.fetched):
            self.read.append(set())
            self.written.append(set())
        for cell in cells:
            self.read[-1] |= lines_of(cell, 4 * count)

    def spread(self, grad, cells, targets, weights, products, count):
        for cell in targets:
            self.written[-1] |= lines_of(cell, 4 * count)

    def product(self, real, a, b, c, depth, columns, ahead):
        if len(self.fetched) == len(self.read):
            self.fetched.append(set())
        address, across, *_ = b
        for k in range(depth):
            self.late |= lines_of(address + 4 * k * across, 4 * min(columns, vectors.WIDTH)) - self.rows
        if ahead:
            place, start = ahead
            of_cells = self.places[0] <= place < sum(self.places)
            assert not of_cells or place + 8 * depth <= sum(self.places)
            for offset in self.array((place, numba.int64), (depth,)):
                (self.fetched[-1] if of_cells else self.rows).update(lines_of(start + offset, 2 * LINE))


def arguments(c, n, out, images, size, weights):
    """The block of a loop for one share of 6 tiles, 3 for an image, and all that it points to."""
    rng = np.random.default_rng(c)
    h = (size - 1) // 2 + 1
    arrays = [
        rng.random((images, size, size, c), np.float32),
        rng.normal(0, 10, (images, h, h, 2 * n)).astype(np.float32),
        np.zeros((2, n), np.float32),
        *weights(images * h * h),
    ]
    sizes = [images, size, size, c, 2, 0, n, out, 1, 0, 0]
    block = np.array(sizes + [address(a) for a in arrays] + [0] * (jit.ADDRESSES - len(arrays)), np.int64)
    return block, arrays


CASES = [(16, 5, 32), (32, 3, 40), (128, 5, 64)]  # one line a cell, several, and more channels than a product adds up


def up_to(number, multiple):
    return -(-number // multiple) * multiple


def of_forward(c, n, out):
    """Block and arrays of a forward pass; the sixth is the output, the seventh scratch."""

    def memory(cells):
        panels, matrix = (np.zeros((rows, n * c), np.float32) for rows in (up_to(out, vectors.WIDTH), out))
        bias, made = np.zeros(out, np.float32), np.zeros((cells, out), np.float32)
        size = kernels.convolve_scratch.py_func(n, n * c, up_to(out, vectors.LANES))
        return panels, bias, made, np.zeros(size, np.float32), matrix

    return arguments(c, n, out, 2, 23, memory)


def of_backward(c, n, out, kept=False):
    """Block and arrays of a backward pass; the seventh is the gradient of the output, the eighth scratch.

    Then come weights and their gradients. Where samples are `kept`, memory for them and for gradients of the output
    follows.
    """

    def memory(cells):
        depth, columns = n * c, up_to(out, vectors.ROWS)
        grad_x, moved = np.full((2, 23, 23, c), np.nan, np.float32), np.zeros((cells, 2 * n), np.float32)
        grad, matrix = np.ones((cells, out), np.float32), np.zeros((out, depth), np.float32)
        total = np.zeros(2 * columns * depth, np.float32)
        scratch = np.zeros(kernels.differentiate_scratch.py_func(n, depth, columns, kept), np.float32)
        rows = (cells, up_to(n * c, vectors.WIDTH)), (up_to(cells, vectors.ROWS), products.row_step.py_func(columns))
        more = [np.zeros(a * b + kernels.APART, np.float32) for a, b in rows] if kept else []
        return grad_x, np.array([address(grad_x)], np.int64), moved, grad, scratch, matrix, total, *more

    block, arrays = arguments(c, n, out, 2, 23, memory)
    block[jit.KEPT] = kept
    return block, arrays


def of_kept(c, n, out):
    return of_backward(c, n, out, kept=True)


SCRATCH = [
    ("convolve", of_forward, [6]),
    ("differentiate", of_backward, [7]),
    ("differentiate", of_kept, [7, 10, 11]),
]


@pytest.mark.parametrize(("c", "n", "out"), [*CASES, (16, 1, 1), (16, 3, 50)])
@pytest.mark.parametrize(("loop", "make", "which"), SCRATCH)
def test_loops_stay_within_their_scratch(loop, make, which, c, n, out):
    block, arrays = make(c, n, out)
    for k in which:
        arrays[k][-kernels.APART :] = 7
    compiled = calls._compiled(getattr(kernels, f"{loop}_float32"))
    compiled.ctypes(block.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)))
    for k in which:
        assert arrays[k][: -kernels.APART].any()
        assert (arrays[k][-kernels.APART :] == 7).all()


@pytest.mark.parametrize(("c", "n", "out"), [*CASES, (16, 1, 1), (16, 3, 50)])
def test_kept_samples_give_the_same_gradients(c, n, out):
    results = []
    for make in (of_backward, of_kept, of_kept):
        block, arrays = make(c, n, out)
        depth, columns = n * c, up_to(out, vectors.ROWS)
        arrays[9][: columns * depth] = 3 * len(results)  # what is added to, at the first and last
        block[jit.ADDING] = len(results) == 2
        compiled = calls._compiled(kernels.differentiate_float32)
        compiled.ctypes(block.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)))
        assert np.isfinite(arrays[3]).all(), "gradients of x are added to what was there"
        results.append(arrays[9][: out * depth].copy())
    plain, kept, added = results
    assert plain.any()
    np.testing.assert_allclose(kept, plain, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(added - 6, plain, rtol=1e-5, atol=1e-3)


def watch_forward(c, n, out, monkeypatch):
    block, arrays = of_forward(c, n, out)
    watched = Watched(monkeypatch)
    kernels._convolve(block, 0, numba.float32, 4)
    return watched, arrays[5]


def assert_fetched_a_tile_ahead(watched, rows):
    first, others = (lines_of(address(part), part.nbytes) for part in np.split(rows, [kernels.TILE]))
    assert others - watched.rows <= {max(others)}  # a row may end in a line more than it has whole lines
    assert (first - others).isdisjoint(watched.rows), "asked for too late"


@pytest.mark.parametrize(("c", "n", "out"), CASES)
def test_forward_pass_fetches_what_the_next_tile_reads(c, n, out, monkeypatch):
    watched, made = watch_forward(c, n, out, monkeypatch)
    assert len(watched.read) == 6
    assert_fetched_a_tile_ahead(watched, made)
    for tile in range(1, 6):
        assert watched.read[tile] <= watched.fetched[tile]
    assert not watched.fetched[6], "there is no tile behind the last"


def test_products_with_more_steps_than_pairs_fetch_nothing(monkeypatch):
    assert not any(watch_forward(256, 1, 32, monkeypatch)[0].fetched)


@pytest.mark.parametrize(("c", "n", "out"), CASES)
def test_backward_pass_fetches_what_a_tile_reads_and_writes(c, n, out, monkeypatch):
    block, arrays = of_backward(c, n, out)
    watched = Watched(monkeypatch)
    kernels._differentiate(block, 0, numba.float32, 4)
    assert_fetched_a_tile_ahead(watched, arrays[6])
    assert len(watched.read) == 6
    for tile in range(6):
        assert watched.written[tile] <= watched.fetched[tile]
        assert tile == 0 or watched.read[tile] <= watched.fetched[tile]
        assert watched.written[tile].isdisjoint(watched.read[tile])
    assert not watched.fetched[6], "there is no tile behind the last"


@pytest.mark.parametrize(("c", "n", "out"), [(16, 5, 32), (32, 3, 40), (48, 3, 600)])
def test_backward_pass_fetches_each_panel_of_many_weights_before_it_is_multiplied(c, n, out, monkeypatch):
    block, arrays = of_kept(c, n, out)
    watched = Watched(monkeypatch)
    kernels._differentiate(block, 0, numba.float32, 4)
    matrix = arrays[8]
    first = set().union(*(lines_of(address(row), 4 * vectors.WIDTH) for row in matrix))
    assert watched.late <= first
    assert first - watched.late <= {min(lines_of(address(row), 1)) for row in matrix}, (
        "a line may begin in a row before"
    )
    assert lines_of(address(matrix), matrix.nbytes) <= watched.late | watched.rows


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
