"""The two loops of AKConv on a CPU, compiled by numba: sampling, and its transpose.

They run in the threads of PyTorch's own loops (OpenMP's `GOMP_parallel`): those of another pool would compete with
PyTorch's, which go on spinning for milliseconds after each operation (5 of 23 ms at 4 x 16 x 320 x 320). OpenMP hands
over one address, so a loop reads all its arguments from one block of integers: sizes, then addresses.

This is the only module that imports numba; it is imported on first use. Machine code is kept in __pycache__.
"""

import ctypes
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic
from torch import Tensor

from models.ops.taps import BORDERS, Border

_PUBLISHED, _ZEROS = BORDERS.index("published"), BORDERS.index("zeros")
_Block = types.CPointer(types.int64)
_SIZES, _ADDRESSES = 10, 7
_thread = types.ExternalFunction("omp_get_thread_num", types.int32())
_threads = types.ExternalFunction("omp_get_num_threads", types.int32())
# Sums may be fused and reordered; NaN and infinity keep their meaning.
_jit = functools.partial(njit, fastmath={"contract", "reassoc"}, error_model="numpy", cache=True)


def sample(
    x: Tensor, offset: Tensor, shape: Tensor, samples: Tensor, *, rows: range, stride: int, border: Border
) -> None:
    """Take the samples of some rows of output cells.

    All tensors are contiguous and of one type, float32 or float64.

    Args:
        x: (B, H, W, C).
        offset: (B, h, w, 2N).
        shape: (N, 2) starting points.
        samples: (len(rows) * w, N * C), overwritten.
        rows: Which of the B * h rows.
        stride: Input pixels per output cell.
        border: Border rule.
    """
    loop = _sample_float64 if x.dtype == torch.float64 else _sample_float32
    _run(loop, len(rows), (*x.shape, stride, border, len(shape), rows, 1), x, offset, shape, samples)


def scatter(
    x: Tensor,
    offset: Tensor,
    shape: Tensor,
    samples: Tensor,
    grad_samples: Tensor,
    grad_x: Tensor,
    grad_offset: Tensor,
    *,
    images: range,
    stride: int,
    border: Border,
) -> None:
    """Take the samples of some images again, and pass their gradients on to where they were read.

    A thread works on a whole image. Where there are fewer images than threads, it adds to a part of the rows of one and
    looks at all offsets for what is read there. So no two write to the same place, and the result is the same in every
    run.

    Args:
        x: As in `sample`; so are the next two.
        offset: (B, h, w, 2N).
        shape: (N, 2).
        samples: (len(images) * h * w, N * C), overwritten.
        grad_samples: Gradients of the samples, same shape.
        grad_x: (B, H, W, C), added to.
        grad_offset: (parts, B, h, w, 2N), overwritten; a part holds what comes from its rows of x.
        images: Which of the B images.
        stride: Input pixels per output cell.
        border: Border rule.
    """
    loop = _scatter_float64 if x.dtype == torch.float64 else _scatter_float32
    parts = len(grad_offset)
    sizes = (*x.shape, stride, border, len(shape), images, parts)
    _run(loop, len(images) * parts, sizes, x, offset, shape, samples, grad_samples, grad_x, grad_offset)


def _run(loop: Callable[..., None], items: int, sizes: tuple[Any, ...], *tensors: Tensor) -> None:
    b, height, width, c, stride, border, n, which, parts = sizes
    numbers = (b, height, width, c, stride, BORDERS.index(border), n, which.start, which.stop, parts)
    block = (ctypes.c_int64 * (_SIZES + _ADDRESSES))(*numbers, *(t.data_ptr() for t in tensors))
    _openmp()(_compiled(loop).address, block, min(torch.get_num_threads(), items), 0)


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
    first = math.floor(q) if q == q else 0
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
def _sample(block, real):
    b, height, width, channels, stride = block[0], block[1], block[2], block[3], block[4]
    border, n, start, stop = block[5], block[6], block[7], block[8]
    out_height, out_width = (height - 1) // stride + 1, (width - 1) // stride + 1
    x = carray(_pointer(block[10], real), (b * height * width, channels))
    offset = carray(_pointer(block[11], real), (b * out_height, out_width, 2 * n))
    shape = carray(_pointer(block[12], real), (n, 2))
    samples = carray(_pointer(block[13], real), (stop - start, out_width, n, channels))
    first, last = _share(stop - start)
    for number in range(first, last):
        row = start + number
        corner, i = row // out_height * height * width, row % out_height
        for j in range(out_width):
            for k in range(n):
                y = offset[row, j, k] + (real(i * stride) + shape[k, 0])
                z = offset[row, j, n + k] + (real(j * stride) + shape[k, 1])
                top, bottom, u0, u1, _, _ = _taps(y, height, border, real)
                left, right, v0, v1, _, _ = _taps(z, width, border, real)
                x00, x01 = _row(x, corner + top * width + left), _row(x, corner + top * width + right)
                x10, x11 = _row(x, corner + bottom * width + left), _row(x, corner + bottom * width + right)
                w00, w01, w10, w11 = u0 * v0, u0 * v1, u1 * v0, u1 * v1
                value = samples[number, j, k]
                for c in range(channels):
                    value[c] = w00 * x00[c] + w01 * x01[c] + w10 * x10[c] + w11 * x11[c]


@_jit()
def _scatter(block, real):
    b, height, width, channels, stride = block[0], block[1], block[2], block[3], block[4]
    border, n, start, stop, parts = block[5], block[6], block[7], block[8], block[9]
    out_height, out_width = (height - 1) // stride + 1, (width - 1) // stride + 1
    x = carray(_pointer(block[10], real), (b * height * width, channels))
    offset = carray(_pointer(block[11], real), (b, out_height, out_width, 2 * n))
    shape = carray(_pointer(block[12], real), (n, 2))
    samples = carray(_pointer(block[13], real), (stop - start, out_height, out_width, n, channels))
    grad_samples = carray(_pointer(block[14], real), (stop - start, out_height, out_width, n, channels))
    grad_x = carray(_pointer(block[15], real), (b * height * width, channels))
    grad_offset = carray(_pointer(block[16], real), (parts, b, out_height, out_width, 2 * n))
    first, last = _share((stop - start) * parts)
    for item in range(first, last):
        number, part = item // parts, item % parts
        image = start + number
        corner = image * height * width
        low, high = height * part // parts, height * (part + 1) // parts
        for i in range(out_height):
            for j in range(out_width):
                for k in range(n):
                    y = offset[image, i, j, k] + (real(i * stride) + shape[k, 0])
                    z = offset[image, i, j, n + k] + (real(j * stride) + shape[k, 1])
                    moved = grad_offset[part, image, i, j]
                    top, bottom, u0, u1, top_moves, bottom_moves = _taps(y, height, border, real)
                    if bottom < low or top >= high:
                        moved[k] = moved[n + k] = real(0)
                        continue
                    left, right, v0, v1, left_moves, right_moves = _taps(z, width, border, real)
                    i00, i01 = corner + top * width + left, corner + top * width + right
                    i10, i11 = corner + bottom * width + left, corner + bottom * width + right
                    x00, x01, x10, x11 = _row(x, i00), _row(x, i01), _row(x, i10), _row(x, i11)
                    w00, w01, w10, w11 = u0 * v0, u0 * v1, u1 * v0, u1 * v1
                    value, grad = samples[number, i, j, k], grad_samples[number, i, j, k]
                    g00 = g01 = g10 = g11 = real(0)
                    if top >= low:
                        for c in range(channels):
                            value[c] = w00 * x00[c] + w01 * x01[c] + w10 * x10[c] + w11 * x11[c]
                        for c in range(channels):
                            g00 += grad[c] * x00[c]
                            g01 += grad[c] * x01[c]
                        _add(_row(grad_x, i00), w00, grad)
                        _add(_row(grad_x, i01), w01, grad)
                    if bottom < high:
                        for c in range(channels):
                            g10 += grad[c] * x10[c]
                            g11 += grad[c] * x11[c]
                        _add(_row(grad_x, i10), w10, grad)
                        _add(_row(grad_x, i11), w11, grad)
                    to_top, to_bottom = v0 * g00 + v1 * g01, v0 * g10 + v1 * g11
                    to_left, to_right = u0 * g00 + u1 * g10, u0 * g01 + u1 * g11
                    moved[k] = (to_bottom if bottom_moves else real(0)) - (to_top if top_moves else real(0))
                    moved[n + k] = (to_right if right_moves else real(0)) - (to_left if left_moves else real(0))


@_jit(inline="always")
def _share(items):
    """First and last item of this thread."""
    return items * _thread() // _threads(), items * (_thread() + 1) // _threads()


@_jit(inline="always")
def _row(table, index):
    return table[types.uint64(index)]  # unsigned, or numba asks of every index whether it counts from the end


@_jit(inline="always")
def _add(target, factor, values):
    for c in range(len(values)):
        target[c] += factor * values[c]


def _sample_float32(block):
    _sample(carray(block, (_SIZES + _ADDRESSES,)), types.float32)


def _sample_float64(block):
    _sample(carray(block, (_SIZES + _ADDRESSES,)), types.float64)


def _scatter_float32(block):
    _scatter(carray(block, (_SIZES + _ADDRESSES,)), types.float32)


def _scatter_float64(block):
    _scatter(carray(block, (_SIZES + _ADDRESSES,)), types.float64)
