"""AKConv on a CPU as two loops compiled by numba: forward and backward pass.

Both work on `TILE` output cells at a time, whose samples stay in the first caches, and multiply them there, by tiles
of `models.ops.cpu_vectors`.

They run in the threads of PyTorch's own loops (OpenMP's `GOMP_parallel`): those of another pool would compete with
PyTorch's, which go on spinning for milliseconds after each operation (5 of 23 ms at 4 x 16 x 320 x 320). OpenMP hands
over one address, so a loop reads all its arguments from one block of integers: sizes, then addresses.

Only this module and `cpu_vectors` import numba, on first use. Machine code is kept in __pycache__.
"""

import ctypes
import functools
from collections.abc import Callable

import torch
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic
from torch import Tensor

from models.ops.cpu_vectors import LANES, ROWS, WIDTH, add_product, blend, fetch, product, spread, taps
from models.ops.sampling import Sampling
from models.ops.taps import BORDERS

__all__ = ["LANES", "ROWS", "WIDTH", "convolve", "differentiate", "scatter"]

SOURCES = "6d429cc2a57cd5bc"
"""Digest of cpu_vectors.py and taps.py, kept right by a test: numba compiles this file anew when it changes, and does
not see what changes in the files it imports.
"""
TILE = 48
"""Output cells whose samples are taken before they are multiplied."""
TILES, DEPTH = 64, 512
"""Most tiles, and most channels of samples, whose products are added up one by one: sums of sums lose fewer bits."""
AHEAD = 2
"""Output cells between the one that is sampled and the one whose input is fetched: offsets may lead anywhere."""
FETCHED = 128
"""Bytes of a cell that are fetched: what follows them processors see coming."""

_PUBLISHED, _ZEROS = BORDERS.index("published"), BORDERS.index("zeros")
_Block = types.CPointer(types.int64)
_SIZES, _ADDRESSES, _SHARES = 13, 12, 8
_Numbers = ctypes.c_int64 * (_SIZES + _ADDRESSES)
_TABLES = 12
"""Numbers of `_tables` for a point."""
_SHARES_OF_IMAGE = 8
"""Most threads that share an image in a backward pass: all but one take memory for a gradient of the whole image."""
_thread = types.ExternalFunction("omp_get_thread_num", types.int32())
_threads = types.ExternalFunction("omp_get_num_threads", types.int32())
_wait_for_all = types.ExternalFunction("GOMP_barrier", types.void())


def _has_cache() -> bool:
    """Whether numba finds a folder for machine code; without one every process compiles."""
    try:
        njit(cache=True)(_has_cache)
    except RuntimeError:
        return False
    return True


_CACHE = _has_cache()
# Sums may be fused and reordered; NaN and infinity keep their meaning.
_jit = functools.partial(njit, fastmath={"contract", "reassoc"}, error_model="numpy", cache=_CACHE)


def convolve(sampling: Sampling, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    """Take the samples of all output cells and combine them.

    All tensors are of one type, float32 or float64, and all but the weights contiguous; the channels of x are a
    multiple of `LANES`, of which the last may have no weights.

    Args:
        sampling: What is sampled where.
        weight: (O, C, N, 1), in any layout.
        bias: (O,).
        out: (B, h, w, O), overwritten.
    """
    shares = max(1, min(torch.get_num_threads(), out.numel() // out.shape[-1] // TILE))
    n, c, many = weight.shape[2], sampling.x.shape[-1], -(-len(weight) // WIDTH)
    numbers = n * c + many * WIDTH + _TABLES * n
    panels = out.new_empty((many, n, c, WIDTH))
    scratch = out.new_empty((shares, TILE * numbers))
    loop = _convolve_float64 if out.dtype == torch.float64 else _convolve_float32
    _run(loop, shares, sampling, len(weight), panels, bias, out, scratch, weight=weight)


def differentiate(grad: Tensor, sampling: Sampling, panels: Tensor, grad_x: Tensor, grad_offset: Tensor) -> Tensor:
    """Pass the gradient of the output on to input, offsets and weights; samples are taken again.

    Shared as `_scatter` says, so that the result is the same in every run with the same number of threads.

    Args:
        grad: (B, h, w, O).
        sampling: As in `convolve`.
        panels: (ceil(N * C / WIDTH), O, WIDTH) weights, zeros behind the last.
        grad_x: (B, H, W, C), added to.
        grad_offset: (B, h, w, 2N), overwritten.

    Returns:
        (O, N * C) gradient of the weights; O rounded up to a multiple of ROWS, N * C to one of WIDTH.
    """
    out = grad.shape[-1]
    columns, depth = out + -out % ROWS, len(panels) * WIDTH
    shares = _shares(grad_x)
    levels = _levels(grad.numel() // out, shares)
    grad_weights = grad.new_zeros((shares, levels, columns, depth))
    scratch = grad.new_zeros((shares, TILE * (2 * depth + columns + 3 * LANES)))
    _scatter(shares, sampling, out, grad_x, grad_offset, scratch, grad, panels, grad_weights)
    return grad_weights[:, 0].sum(0)


def scatter(grad_samples: Tensor, sampling: Sampling, samples: Tensor, grad_x: Tensor, grad_offset: Tensor) -> None:
    """What `differentiate` does between its matrix products, for all cells at once.

    Args:
        grad_samples: (B * h * w, N * C), gradients of the samples.
        sampling: As in `convolve`.
        samples: (B * h * w, N * C), overwritten.
        grad_x: (B, H, W, C), added to.
        grad_offset: (B, h, w, 2N), overwritten.
    """
    _scatter(_shares(grad_x), sampling, 0, grad_x, grad_offset, samples, grad_samples)


@_jit()
def _levels(cells, shares):
    """2 where the products of a share's last tiles are added up apart, else 1, which takes half the memory."""
    return 2 if cells > shares * TILES * TILE else 1


def _shares(grad_x: Tensor) -> int:
    """Into how many parts a backward pass is divided."""
    return min(torch.get_num_threads(), _SHARES_OF_IMAGE * len(grad_x))


def _scatter(shares: int, sampling: Sampling, out: int, grad_x: Tensor, grad_offset: Tensor, *tensors: Tensor) -> None:
    """Run the loop of the backward pass, a range of output cells for each thread. No two write to the same place.

    Offsets lead anywhere in their image. So a share that begins within an image gathers the gradient of that image
    apart, to be added to grad_x at the end.
    """
    cells = grad_offset[0, ..., 0].numel()
    starts = [divmod(len(grad_x) * cells * share // shares, cells) for share in range(shares)]
    begun = [image for image, cell in starts if cell]
    apart = grad_x.new_zeros((len(begun), *grad_x.shape[1:]))
    own = iter(apart)
    places = [(next(own) if cell else grad_x[image]).data_ptr() for image, cell in starts]
    first_places = torch.tensor(places, device=grad_x.device)
    tables = grad_x.new_zeros((shares, TILE * _TABLES * len(sampling.start)))
    loop = _differentiate_float64 if grad_x.dtype == torch.float64 else _differentiate_float32
    _run(loop, shares, sampling, out, grad_x, first_places, grad_offset, tables, *tensors)
    for image, part in zip(begun, apart, strict=True):
        grad_x[image] += part


def _run(
    loop: Callable[..., None], shares: int, sampling: Sampling, out: int, *tensors: Tensor, weight: Tensor | None = None
) -> None:
    team, tensors = shares, (sampling.x, sampling.offset, sampling.start, *tensors)
    if not all(t.is_contiguous() for t in tensors):
        raise ValueError("the loops read contiguous memory only")
    numbers = *sampling.x.shape, sampling.stride, BORDERS.index(sampling.border), len(sampling.start), out, shares
    if weight is not None:
        numbers, tensors = (*numbers, weight.shape[1], *weight.stride()[:3]), (*tensors, weight)
        team = max(shares, min(torch.get_num_threads(), -(-out // WIDTH)))  # small maps may have many weights
    block = _Numbers(*numbers)
    block[_SIZES : _SIZES + len(tensors)] = [t.data_ptr() for t in tensors]
    _openmp()(_compiled(loop).address, block, team, 0)


@functools.cache
def _openmp():
    """GOMP_parallel(function, its argument, number of threads, flags), as PyTorch has loaded it."""
    run = ctypes.CDLL(None).GOMP_parallel
    run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    run.restype = None
    return run


@functools.cache
def _compiled(loop: Callable[..., None]):
    return cfunc(types.void(_Block), cache=_CACHE)(loop)


@intrinsic
def _pointer(context, address, real):
    """An address as a pointer to numbers of type `real`."""
    pointer = types.CPointer(real.dtype)

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(address, real), generate


@_jit(inline="always")
def _locate(address, moves, shape, start, stop, w, height, width, stride, border, real, bytes):
    """Fill the tables of a tile at an address (see `_tables`): output cells from `start` to `stop`."""
    n, h = len(shape), (height - 1) // stride + 1
    places = _tables(address, n, real, bytes)[0]
    i, j = start // w % h, start % w
    for cell in range(start, stop):
        for k in range(n):
            places[0, cell - start, k] = moves[cell, k] + (real(i * stride) + shape[k, 0])
            places[1, cell - start, k] = moves[cell, n + k] + (real(j * stride) + shape[k, 1])
        j += 1
        if j == w:
            i, j = (i + 1) % h, 0
    margin = real(1 if border == _ZEROS else 0)
    outside = real(2 if border == _PUBLISHED else 1)
    points, cells = TILE * n, address + 4 * TILE * n * bytes
    for axis, size in enumerate((height, width)):
        w0, c0 = address + axis * points * bytes, cells + axis * points * 4
        results = w0, w0 + 2 * points * bytes, c0, c0 + 8 * points, c0 + 16 * points, c0 + 24 * points
        taps(size - 1, margin, outside, results, (stop - start) * n)


@_jit(inline="always")
def _tables(address, n, real, bytes):
    """Lower weights, upper weights, lower cells, upper cells, whether each weight moves: (2, TILE, N), rows first."""
    shape, points = (2, TILE, n), 2 * TILE * n
    cells = address + 2 * points * bytes
    return (
        carray(_pointer(address, real), shape),
        carray(_pointer(address + points * bytes, real), shape),
        carray(_pointer(cells, types.int32), shape),
        carray(_pointer(cells + points * 4, types.int32), shape),
        carray(_pointer(cells + points * 8, types.int32), shape),
        carray(_pointer(cells + points * 12, types.int32), shape),
    )


@_jit()
def _lay_out(block, real, bytes):
    """Weights as panels for `_multiply`, (ceil(O / WIDTH), N, C, WIDTH), with zeros behind the last; all threads."""
    channels, n, out = block[3], block[6], block[7]
    weighted, o_step, c_step, n_step = block[9], block[10], block[11], block[12]
    many, memory = -(-out // WIDTH), (out - 1) * o_step + (weighted - 1) * c_step + (n - 1) * n_step + 1
    panels = carray(_pointer(block[_SIZES + 3], real), (many, n, channels, WIDTH))
    weight = carray(_pointer(block[_SIZES + 7], real), (memory,))
    for panel in range(_thread(), many, _threads()):
        for c in range(channels):
            for k in range(n):
                for lane in range(WIDTH):
                    o = panel * WIDTH + lane
                    given = o < out and c < weighted
                    panels[panel, k, c, lane] = weight[o * o_step + c * c_step + k * n_step] if given else real(0)
    _wait_for_all()


@_jit()
def _convolve(block, share, real, bytes):
    b, height, width, channels, stride = block[0], block[1], block[2], block[3], block[4]
    border, n, out, shares = block[5], block[6], block[7], block[8]
    h, w = (height - 1) // stride + 1, (width - 1) // stride + 1
    cells, depth, columns = b * h * w, n * channels, -(-out // WIDTH) * WIDTH
    x, panels, row = block[_SIZES], block[_SIZES + 3], channels * bytes
    fetched = min(row, FETCHED)
    moves = carray(_pointer(block[_SIZES + 1], real), (cells, 2 * n))
    shape = carray(_pointer(block[_SIZES + 2], real), (n, 2))
    bias = carray(_pointer(block[_SIZES + 4], real), (out,))
    result = carray(_pointer(block[_SIZES + 5], real), (cells, out))
    samples = block[_SIZES + 6] + share * TILE * (depth + columns + _TABLES * n) * bytes
    products = samples + TILE * depth * bytes
    tables = products + TILE * columns * bytes
    taken, made = carray(_pointer(samples, real), (TILE, depth)), carray(_pointer(products, real), (TILE, columns))
    lower, upper, near, far, _, _ = _tables(tables, n, real, bytes)
    first, last = _share(cells, share, shares)
    for start in range(first, last, TILE):
        stop = min(start + TILE, last)
        _locate(tables, moves, shape, start, stop, w, height, width, stride, border, real, bytes)
        for cell in range(stop - start):
            image = x + (start + cell) // (h * w) * height * width * row
            sample = samples + cell * depth * bytes
            soon = min(cell + AHEAD, stop - start - 1)  # in another image at times: then nothing useful is fetched
            for k in range(n):
                fetch(_corners(image, near, far, soon, k, width, row), fetched)
            for k in range(n):
                corners = _corners(image, near, far, cell, k, width, row)
                u0, u1, v0, v1 = lower[0, cell, k], upper[0, cell, k], lower[1, cell, k], upper[1, cell, k]
                blend(sample + k * row, corners, (u0 * v0, u0 * v1, u1 * v0, u1 * v1), channels)
        for cell in range(stop - start, -(-(stop - start) // ROWS) * ROWS):
            taken[cell] = 0  # else left over from others: denormal numbers cost a lot
        _multiply(samples, depth, stop - start, panels, depth, products, columns, columns, real, bytes)
        for cell in range(start, stop):
            for o in range(out):
                result[cell, o] = made[cell - start, o] + bias[o]


@_jit()
def _differentiate(block, share, real, bytes):
    b, height, width, channels, stride = block[0], block[1], block[2], block[3], block[4]
    border, n, out, shares = block[5], block[6], block[7], block[8]
    h, w = (height - 1) // stride + 1, (width - 1) // stride + 1
    cells, columns, depth = b * h * w, -(-out // ROWS) * ROWS, -(-n * channels // WIDTH) * WIDTH
    x, grad_x, row = block[_SIZES], block[_SIZES + 3], channels * bytes
    fetched = min(row, FETCHED)
    moves = carray(_pointer(block[_SIZES + 1], real), (cells, 2 * n))
    shape = carray(_pointer(block[_SIZES + 2], real), (n, 2))
    first_place = carray(_pointer(block[_SIZES + 4], types.int64), (shares,))[share]
    grad_moves = carray(_pointer(block[_SIZES + 5], real), (cells, 2 * n))
    tables = block[_SIZES + 6] + share * TILE * _TABLES * n * bytes
    samples, grad_samples = block[_SIZES + 7], block[_SIZES + 8]
    tiled = out > 0  # else all samples and their gradients are in memory
    # Rows of a power of two would share few places of the first cache.
    wide, narrow = depth + LANES if tiled else n * channels, columns + LANES
    panels, size, levels = block[_SIZES + 9], columns * depth, _levels(cells, shares)
    total = block[_SIZES + 10] + share * levels * size * bytes
    grad_weights = total + (levels - 1) * size * bytes
    sums = carray(_pointer(total, real), (levels, size))
    grad = carray(_pointer(block[_SIZES + 8], real), (cells, out))
    if tiled:
        samples += share * TILE * (2 * wide + narrow) * bytes
        grad_samples = samples + TILE * wide * bytes
    grads = grad_samples + TILE * wide * bytes
    passed = carray(_pointer(grads, real), (TILE, narrow))
    lower, upper, near, far, lower_moves, upper_moves = _tables(tables, n, real, bytes)
    first, last = _share(cells, share, shares)
    for start in range(first, last, TILE):
        stop = min(start + TILE, last)
        _locate(tables, moves, shape, start, stop, w, height, width, stride, border, real, bytes)
        if tiled:
            for cell in range(stop - start):
                for o in range(out):
                    passed[cell, o] = grad[start + cell, o]
            _multiply(grads, narrow, stop - start, panels, out, grad_samples, wide, depth, real, bytes)
        for cell in range(stop - start):
            line, moved = cell if tiled else start + cell, grad_moves[start + cell]
            image = (start + cell) // (h * w)
            x_image = x + image * height * width * row
            grad_image = grad_x + image * height * width * row if image > first // (h * w) else first_place
            soon = min(cell + AHEAD, stop - start - 1)
            for k in range(n):
                fetch(_corners(x_image, near, far, soon, k, width, row), fetched)
                fetch(_corners(grad_image, near, far, soon, k, width, row), fetched)
                corners = _corners(x_image, near, far, cell, k, width, row)
                targets = _corners(grad_image, near, far, cell, k, width, row)
                u0, u1, v0, v1 = lower[0, cell, k], upper[0, cell, k], lower[1, cell, k], upper[1, cell, k]
                weights = u0 * v0, u0 * v1, u1 * v0, u1 * v1
                place = (line * wide + k * channels) * bytes
                blend(samples + place, corners, weights, channels)
                g00, g01, g10, g11 = spread(grad_samples + place, corners, targets, weights, channels)
                to_top, to_bottom = v0 * g00 + v1 * g01, v0 * g10 + v1 * g11
                to_left, to_right = u0 * g00 + u1 * g10, u0 * g01 + u1 * g11
                up, down = upper_moves[0, cell, k], lower_moves[0, cell, k]
                moved[k] = (to_bottom if up else real(0)) - (to_top if down else real(0))
                up, down = upper_moves[1, cell, k], lower_moves[1, cell, k]
                moved[n + k] = (to_right if up else real(0)) - (to_left if down else real(0))
        for o in range(0, columns, ROWS):
            for k in range(0, depth, WIDTH):
                left, right = (grads + o * bytes, 1, narrow), (samples + k * bytes, wide)
                add_product(real, left, right, (grad_weights + (o * depth + k) * bytes, depth), stop - start)
        if levels > 1 and ((stop - first) % (TILES * TILE) == 0 or stop == last):
            for i in range(size):
                sums[0, i] += sums[1, i]
                sums[1, i] = 0


@_jit(inline="always")
def _corners(image, near, far, cell, k, width, row):
    """Addresses of the four cells that a point reads, or of their gradients: upper row first."""
    above, below = image + near[0, cell, k] * width * row, image + far[0, cell, k] * width * row
    left, right = near[1, cell, k] * row, far[1, cell, k] * row
    return above + left, above + right, below + left, below + right


@_jit(inline="always")
def _multiply(a, step, rows, panels, depth, c, across, columns, real, bytes):
    """c (rows, columns) = a (rows, depth) times panels (columns / WIDTH, depth, WIDTH).

    Rows of a are `step` numbers apart, those of c `across`.
    """
    for o in range(0, columns, WIDTH):
        panel = panels + o * depth * bytes
        for r in range(0, rows, ROWS):
            target = c + (r * across + o) * bytes, across
            for d in range(0, depth, DEPTH):
                left, right = (a + (r * step + d) * bytes, step, 1), (panel + d * WIDTH * bytes, WIDTH)
                if d:
                    add_product(real, left, right, target, min(DEPTH, depth - d))
                else:
                    product(real, left, right, target, min(DEPTH, depth))


@_jit(inline="always")
def _share(items, share, shares):
    """First and last item of a share."""
    return items * share // shares, items * (share + 1) // shares


# OpenMP may give fewer threads than it was asked for.


def _convolve_float32(block):
    numbers = carray(block, (_SIZES + _ADDRESSES,))
    _lay_out(numbers, types.float32, 4)
    for share in range(_thread(), numbers[_SHARES], _threads()):
        _convolve(numbers, share, types.float32, 4)


def _convolve_float64(block):
    numbers = carray(block, (_SIZES + _ADDRESSES,))
    _lay_out(numbers, types.float64, 8)
    for share in range(_thread(), numbers[_SHARES], _threads()):
        _convolve(numbers, share, types.float64, 8)


def _differentiate_float32(block):
    numbers = carray(block, (_SIZES + _ADDRESSES,))
    for share in range(_thread(), numbers[_SHARES], _threads()):
        _differentiate(numbers, share, types.float32, 4)


def _differentiate_float64(block):
    numbers = carray(block, (_SIZES + _ADDRESSES,))
    for share in range(_thread(), numbers[_SHARES], _threads()):
        _differentiate(numbers, share, types.float64, 8)
