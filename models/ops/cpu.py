"""AKConv on a CPU: compiled loops sample, PyTorch's matrix product combines, a cache-sized piece at a time."""

import ctypes
import functools
import sys
from types import ModuleType

import torch
from torch import Tensor

from models.ops import rows
from models.ops.operator import define
from models.ops.rows import matrix_of, product, rows_of, weight_of
from models.ops.shapes import Shape
from models.ops.taps import Border

_PIECE = 1 << 21
"""Bytes of samples taken and multiplied at a time: they stay in the cache, and little memory is needed."""


@functools.cache
def compiled_loops() -> ModuleType | None:
    """`models.ops.cpu_kernels`, or None where numba or the OpenMP library it needs is missing."""
    if sys.platform == "win32" or not hasattr(ctypes.CDLL(None), "GOMP_parallel"):
        return None
    try:
        from models.ops import cpu_kernels
    except ImportError:
        return None
    return cpu_kernels


def _forward(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, stride: int, shape: Shape, border: Border
) -> Tensor:
    loops = compiled_loops()
    if loops is None:
        return rows.forward(x, offset, weight, bias, stride, shape, border)
    table, moves, start = _contiguous(x, offset, shape)
    matrix = matrix_of(weight)
    b, h, w, _ = moves.shape
    out = x.new_empty((b * h * w, len(weight)))
    height = max(1, _PIECE // (w * matrix.shape[1] * table.itemsize))  # rows of cells in a piece
    buffer = table.new_empty((min(height, b * h) * w, matrix.shape[1]))
    for first in range(0, b * h, height):
        piece = range(first, min(first + height, b * h))
        samples = buffer[: len(piece) * w]
        loops.sample(table, moves, start, samples, rows=piece, stride=stride, border=border)
        product(samples.to(x.dtype), matrix, bias, out=out[piece.start * w : piece.stop * w])
    return out.view(b, h, w, len(weight)).permute(0, 3, 1, 2)


def _backward(
    grad: Tensor, x: Tensor, offset: Tensor, weight: Tensor, stride: int, shape: Shape, border: Border
) -> tuple[Tensor, Tensor, Tensor]:
    loops = compiled_loops()
    if loops is None:
        return rows.backward(grad, x, offset, weight, stride, shape, border)
    table, moves, start = _contiguous(x, offset, shape)
    b, h, w, _ = moves.shape
    threads = torch.get_num_threads()
    matrix, grad_out = matrix_of(weight).to(table.dtype), rows_of(grad).to(table.dtype)  # (O, NC), (Bhw, O)
    grad_x, grad_matrix = torch.zeros_like(table), torch.zeros_like(matrix)
    grad_moves = moves.new_empty((-(-threads // max(b, 1)), *moves.shape))
    buffers = table.new_empty((2, min(threads, b) * h * w, matrix.shape[1]))
    for first in range(0, b, threads):  # an image for each thread
        piece = range(first, min(first + threads, b))
        grad_piece = grad_out[piece.start * h * w : piece.stop * h * w]
        samples, grad_samples = buffers[:, : len(grad_piece)]
        torch.mm(grad_piece, matrix, out=grad_samples)
        tensors = table, moves, start, samples, grad_samples, grad_x, grad_moves
        loops.scatter(*tensors, images=piece, stride=stride, border=border)
        grad_matrix.addmm_(grad_piece.t(), samples)
    return (
        grad_x.to(x.dtype).permute(0, 3, 1, 2),
        grad_moves.sum(0).to(offset.dtype).permute(0, 3, 1, 2),
        weight_of(grad_matrix.to(weight.dtype), weight),
    )


def _contiguous(x: Tensor, offset: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, H, W, C), offset (B, h, w, 2N) and starting points (N, 2), contiguous and of one type."""
    real = torch.promote_types(x.dtype, torch.float32)
    table, moves = (t.to(real).permute(0, 2, 3, 1).contiguous() for t in (x, offset))
    return table, moves, torch.tensor(shape, dtype=real)


akconv2d_cpu = define("cpu", _forward, _backward)
