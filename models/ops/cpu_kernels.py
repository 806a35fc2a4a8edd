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
from typing import Any

import torch
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic
from torch import Tensor

from models.ops.cpu_vectors import LANES, ROWS, WIDTH, add_product, blend, product, spread
from models.ops.taps import BORDERS, Border

__all__ = ["LANES", "ROWS", "WIDTH", "convolve", "differentiate", "scatter"]

SOURCES = "8feb82078a1017d9"
"""Digest of cpu_vectors.py and taps.py, kept right by a test: numba compiles this file anew when it changes, and does
not see what changes in the files it imports.
"""
TILE = 48
"""Output cells whose samples are taken before they are multiplied."""

_PUBLISHED, _ZEROS = BORDERS.index("published"), BORDERS.index("zeros")
_Block = types.CPointer(types.int64)
_SIZES, _ADDRESSES = 9, 9
_thread = types.ExternalFunction("omp_get_thread_num", types.int32())
_threads = types.ExternalFunction("omp_get_num_threads", types.int32())
# Sums may be fused and reordered; NaN and infinity keep their meaning.
_jit = functools.partial(njit, fastmath={"contract", "reassoc"}, error_model="numpy", cache=True)


def convolve(
    x: Tensor, offset: Tensor, shape: Tensor, panels: Tensor, bias: Tensor, out: Tensor, *, stride: int, border: Border
) -> None:
    """Take the samples of all output cells and combine them.

    All tensors are contiguous and of one type, float32 or float64.

    Args:
        x: (B, H, W, C), C a multiple of `LANES`.
        offset: (B, h, w, 2N).
        shape: (N, 2) starting points.
        panels: (ceil(O / WIDTH), N * C, WIDTH) weights, zeros behind the last.
        bias: (O,).
        out: (B, h, w, O), overwritten.
        stride: Input pixels per output cell.
        border: Border rule.
    """
    threads = max(1, min(torch.get_num_threads(), out.numel() // out.shape[-1] // TILE))
    width = len(panels) * WIDTH
    scratch = x.new_zeros((threads, TILE * (panels.shape[1] + width)))  # zeros: denormal numbers cost a lot
    loop = _convolve_float64 if x.dtype == torch.float64 else _convolve_float32
    sizes = *x.shape, stride, border, len(shape), len(bias), 1
    _run(loop, threads, sizes, x, offset, shape, panels, bias, out, scratch)


def differentiate(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    shape: Tensor,
    panels: Tensor,
    grad_x: Tensor,
    grad_offset: Tensor,
    grad_weights: Tensor,
    *,
    stride: int,
    border: Border,
) -> None:
    """Pass the gradient of the output on to input, offsets and weights; samples are taken again.

    An item of work is an image. Where there are fewer images than threads, it is a part of the rows of one: all offsets
    are looked at for what is read there. So no two threads write to the same place, and the result is the same in every
    run with the same number of threads.

    Args:
        grad: (B, h, w, O).
        x: (B, H, W, C), as in `convolve`; so are the next two.
        offset: (B, h, w, 2N).
        shape: (N, 2).
        panels: (ceil(N * C / WIDTH), O, WIDTH) weights, zeros behind the last.
        grad_x: (B, H, W, C), added to.
        grad_offset: (parts, B, h, w, 2N), overwritten; a part holds what comes from its rows of x.
        grad_weights: (threads, O, N * C), added to; O rounded up to a multiple of ROWS, N * C to one of WIDTH.
        stride: Input pixels per output cell.
        border: Border rule.
    """
    _, columns, depth = grad_weights.shape
    scratch = x.new_zeros((len(grad_weights), TILE * (2 * depth + columns + 3 * LANES)))
    tensors = x, offset, shape, grad_x, grad_offset, scratch, grad, panels, grad_weights
    loop = _differentiate_float64 if x.dtype == torch.float64 else _differentiate_float32
    sizes = *x.shape, stride, border, len(shape), grad.shape[-1], len(grad_offset)
    _run(loop, min(len(grad_weights), len(x) * len(grad_offset)), sizes, *tensors)


def scatter(
    grad_samples: Tensor,
    x: Tensor,
    offset: Tensor,
    shape: Tensor,
    samples: Tensor,
    grad_x: Tensor,
    grad_offset: Tensor,
    *,
    stride: int,
    border: Border,
) -> None:
    """What `differentiate` does between its matrix products, for all cells at once.

    Args:
        grad_samples: (B * h * w, N * C), gradients of the samples.
        x: As in `differentiate`; so are all others but the samples.
        offset: (B, h, w, 2N).
        shape: (N, 2).
        samples: (B * h * w, N * C), overwritten.
        grad_x: (B, H, W, C), added to.
        grad_offset: (parts, B, h, w, 2N), overwritten.
        stride: Input pixels per output cell.
        border: Border rule.
    """
    tensors = x, offset, shape, grad_x, grad_offset, samples, grad_samples
    loop = _differentiate_float64 if x.dtype == torch.float64 else _differentiate_float32
    items = len(x) * len(grad_offset)
    sizes = *x.shape, stride, border, len(shape), 0, len(grad_offset)
    _run(loop, min(torch.get_num_threads(), items), sizes, *tensors)


def _run(loop: Callable[..., None], threads: int, sizes: tuple[Any, ...], *tensors: Tensor) -> None:
    assert all(t.is_contiguous() for t in tensors)
    *shape, stride, border, n, out, parts = sizes
    numbers = (*shape, stride, BORDERS.index(border), n, out, parts)
    block = (ctypes.c_int64 * (_SIZES + _ADDRESSES))(*numbers, *(t.data_ptr() for t in tensors))
    _openmp()(_compiled(loop).address, block, threads, 0)


@functools.cache
def _openmp():
    """GOMP_parallel(function, its argument, number of threads, flags), as PyTorch has loaded it."""
    run = ctypes.CDLL(None).GOMP_parallel
    run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    run.restype = None
    return run


@functools.cache
def _compiled(loop: Callable[..., None]):
    return cfunc(types.void(_Block), cache=True)(loop)


@intrinsic
def _pointer(context, address, real):
    """An address as a pointer to numbers of type `real`."""
    pointer = types.CPointer(real.dtype)

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(address, real), generate


@_jit(inline="always")
def _taps(p, size, border, real):
    """Two cells, their weights, and whether each weight moves with p: the rule of `models.ops.taps` for one number."""
    low, high = (real(-1), real(size)) if border == _ZEROS else (real(0), real(size - 1))
    inside = p >= low and p < high
    q = min(max(p, low), high)  # NaN stays NaN
    first = int(q) if q == q else 0
    if real(first) > q:  # floor by hand: LLVM calls a function for it, which saves and restores all registers
        first -= 1
    upper = q - real(first)
    lower = real(1) - upper
    lower_moves = upper_moves = inside
    if border == _PUBLISHED and not inside:
        lower, upper = real(2) * lower, real(2) * upper
    if border == _ZEROS:
        if first < 0 or first >= size:
            lower, lower_moves = real(0) * lower, False
        if first + 1 >= size:
            upper, upper_moves = real(0) * upper, False
    return max(0, min(first, size - 1)), min(first + 1, size - 1), lower, upper, lower_moves, upper_moves


@_jit()
def _convolve(block, real, bytes):
    b, height, width, channels, stride = block[0], block[1], block[2], block[3], block[4]
    border, n, out = block[5], block[6], block[7]
    h, w = (height - 1) // stride + 1, (width - 1) // stride + 1
    cells, depth, columns = b * h * w, n * channels, -(-out // WIDTH) * WIDTH
    x, panels = block[_SIZES], block[_SIZES + 3]
    offset = carray(_pointer(block[_SIZES + 1], real), (cells, 2 * n))
    shape = carray(_pointer(block[_SIZES + 2], real), (n, 2))
    bias = carray(_pointer(block[_SIZES + 4], real), (out,))
    result = carray(_pointer(block[_SIZES + 5], real), (cells, out))
    samples = block[_SIZES + 6] + _thread() * TILE * (depth + columns) * bytes
    products = samples + TILE * depth * bytes
    made = carray(_pointer(products, real), (TILE, columns))
    row = channels * bytes
    first, last = _share(cells)
    for start in range(first, last, TILE):
        stop = min(start + TILE, last)
        for cell in range(start, stop):
            image, i, j = cell // (h * w), cell // w % h, cell % w
            corner = image * height * width
            sample = samples + (cell - start) * depth * bytes
            for k in range(n):
                y = offset[cell, k] + (real(i * stride) + shape[k, 0])
                z = offset[cell, n + k] + (real(j * stride) + shape[k, 1])
                top, bottom, u0, u1, _, _ = _taps(y, height, border, real)
                left, right, v0, v1, _, _ = _taps(z, width, border, real)
                above, below = x + (corner + top * width) * row, x + (corner + bottom * width) * row
                left, right = left * row, right * row
                corners = above + left, above + right, below + left, below + right
                blend(sample + k * row, corners, (u0 * v0, u0 * v1, u1 * v0, u1 * v1), channels)
        _multiply(samples, depth, stop - start, panels, depth, products, columns, columns, real, bytes)
        for cell in range(start, stop):
            for o in range(out):
                result[cell, o] = made[cell - start, o] + bias[o]


@_jit()
def _differentiate(block, real, bytes):
    b, height, width, channels, stride = block[0], block[1], block[2], block[3], block[4]
    border, n, out, parts = block[5], block[6], block[7], block[8]
    h, w = (height - 1) // stride + 1, (width - 1) // stride + 1
    cells, columns, depth = h * w, -(-out // ROWS) * ROWS, -(-n * channels // WIDTH) * WIDTH
    x, grad_x = block[_SIZES], block[_SIZES + 3]
    offset = carray(_pointer(block[_SIZES + 1], real), (b, cells, 2 * n))
    shape = carray(_pointer(block[_SIZES + 2], real), (n, 2))
    grad_offset = carray(_pointer(block[_SIZES + 4], real), (parts, b, cells, 2 * n))
    samples, grad_samples = block[_SIZES + 5], block[_SIZES + 6]
    tiled = out > 0  # else all samples and their gradients are in memory
    # Rows of a power of two would share few places of the first cache.
    wide, narrow = depth + LANES if tiled else n * channels, columns + LANES
    panels, grad_weights = block[_SIZES + 7], block[_SIZES + 8] + _thread() * columns * depth * bytes
    grad = carray(_pointer(block[_SIZES + 6], real), (b, cells, out))
    if tiled:
        samples += _thread() * TILE * (2 * wide + narrow) * bytes
        grad_samples = samples + TILE * wide * bytes
    grads = grad_samples + TILE * wide * bytes
    taken = carray(_pointer(samples, real), (TILE, wide))
    passed = carray(_pointer(grads, real), (TILE, narrow))
    row = channels * bytes
    first, last = _share(b * parts)
    for item in range(first, last):
        image, part = item // parts, item % parts
        low, high = height * part // parts, height * (part + 1) // parts
        corner = image * height * width
        for start in range(0, cells, TILE):
            stop = min(start + TILE, cells)
            moves, moved = offset[image, start:stop], grad_offset[part, image, start:stop]
            if parts > 1 and not _reads(moves, start // w * stride, (stop - 1) // w * stride, shape, low, high, height):
                moved[:] = real(0)
                continue
            if tiled:
                for cell in range(stop - start):
                    for o in range(out):
                        passed[cell, o] = grad[image, start + cell, o]
                _multiply(grads, narrow, stop - start, panels, out, grad_samples, wide, depth, real, bytes)
            for cell in range(stop - start):
                i, j = (start + cell) // w, (start + cell) % w
                line = cell if tiled else image * cells + start + cell
                for k in range(n):
                    y = moves[cell, k] + (real(i * stride) + shape[k, 0])
                    z = moves[cell, n + k] + (real(j * stride) + shape[k, 1])
                    top, bottom, u0, u1, top_moves, bottom_moves = _taps(y, height, border, real)
                    left, right, v0, v1, left_moves, right_moves = _taps(z, width, border, real)
                    above, below = (corner + top * width) * row, (corner + bottom * width) * row
                    left, right = left * row, right * row
                    i00, i01, i10, i11 = above + left, above + right, below + left, below + right
                    w00, w01, w10, w11 = u0 * v0, u0 * v1, u1 * v0, u1 * v1
                    place = (line * wide + k * channels) * bytes
                    slope = grad_samples + place
                    g00 = g01 = g10 = g11 = real(0)
                    if low <= top < high:
                        corners = x + i00, x + i01, x + i10, x + i11
                        blend(samples + place, corners, (w00, w01, w10, w11), channels)
                        pair, targets = (x + i00, x + i01), (grad_x + i00, grad_x + i01)
                        g00, g01 = spread(slope, pair, targets, (w00, w01), channels)
                    elif tiled:
                        taken[cell, k * channels : (k + 1) * channels] = real(0)  # counts in another part
                    if low <= bottom < high:
                        pair, targets = (x + i10, x + i11), (grad_x + i10, grad_x + i11)
                        g10, g11 = spread(slope, pair, targets, (w10, w11), channels)
                    to_top, to_bottom = v0 * g00 + v1 * g01, v0 * g10 + v1 * g11
                    to_left, to_right = u0 * g00 + u1 * g10, u0 * g01 + u1 * g11
                    moved[cell, k] = (to_bottom if bottom_moves else real(0)) - (to_top if top_moves else real(0))
                    moved[cell, n + k] = (to_right if right_moves else real(0)) - (to_left if left_moves else real(0))
            for o in range(0, columns, ROWS):
                for k in range(0, depth, WIDTH):
                    left, right = (grads + o * bytes, 1, narrow), (samples + k * bytes, wide)
                    add_product(real, left, right, (grad_weights + (o * depth + k) * bytes, depth), stop - start)


@_jit()
def _reads(moves, first, last, shape, low, high, height):
    """Whether a tile may read the rows from `low` to `high`; its cells lie at rows `first` to `last` of the input."""
    for k in range(len(shape)):
        for cell in range(len(moves)):
            y = moves[cell, k] + shape[k, 0]  # a pixel of margin, as this is rounded in another order
            beyond = (high < height and y + first > high + 1) or (low > 0 and y + last < low - 2)
            if not beyond:  # also where it is NaN
                return True
    return False


@_jit(inline="always")
def _multiply(a, step, rows, panels, depth, c, across, columns, real, bytes):
    """c (rows, columns) = a (rows, depth) times panels (columns / WIDTH, depth, WIDTH).

    Rows of a are `step` numbers apart, those of c `across`.
    """
    for o in range(0, columns, WIDTH):
        panel = panels + o * depth * bytes
        for r in range(0, rows, ROWS):
            left, target = (a + r * step * bytes, step, 1), (c + (r * across + o) * bytes, across)
            product(real, left, (panel, WIDTH), target, depth)


@_jit(inline="always")
def _share(items):
    """First and last item of this thread."""
    return items * _thread() // _threads(), items * (_thread() + 1) // _threads()


def _convolve_float32(block):
    _convolve(carray(block, (_SIZES + _ADDRESSES,)), types.float32, 4)


def _convolve_float64(block):
    _convolve(carray(block, (_SIZES + _ADDRESSES,)), types.float64, 8)


def _differentiate_float32(block):
    _differentiate(carray(block, (_SIZES + _ADDRESSES,)), types.float32, 4)


def _differentiate_float64(block):
    _differentiate(carray(block, (_SIZES + _ADDRESSES,)), types.float64, 8)
