"""AKConv on a CPU by the compiled loops of `models.ops.cpu_kernels`: tensors, brought into the form they need."""

import ctypes
import functools
import sys
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops import rows
from models.ops.operator import define, empty_output
from models.ops.sampling import Sampling
from models.ops.shapes import Shape
from models.ops.taps import Border

_MANY_WEIGHTS = 1 << 20
"""Bytes of weights beyond which a backward pass keeps samples until all can be multiplied: every tile would move the
gradients of the weights through the caches twice, and every thread would hold a copy of them."""


@functools.cache
def compiled_loops() -> ModuleType | None:
    """`models.ops.cpu_calls`, or None where numba or OpenMP is missing, or NUMBA_DISABLE_JIT is set."""
    if sys.platform == "win32" or not hasattr(ctypes.CDLL(None), "GOMP_parallel"):
        return None
    try:
        from numba import config

        from models.ops import cpu_calls
    except ImportError:
        return None
    return None if config.DISABLE_JIT else cpu_calls  # type: ignore[attr-defined]


def loops_available() -> bool:
    """Whether the compiled loops run here."""
    return compiled_loops() is not None


# What torch.compiler.assume_constant_result does: torch.compile cannot look into the search for a library.
loops_available._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _forward(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, stride: int, shape: Shape, border: Border
) -> Tensor:
    loops = compiled_loops()
    if loops is None or x.numel() == 0:
        return rows.forward(x, offset, weight, bias, stride, shape, border)
    sampling = _sampling(x, offset, stride, shape, border, loops.LANES)
    real = sampling.x.dtype
    added = sampling.x.new_zeros(weight.shape[0]) if bias is None else _as(bias, real).contiguous()
    out = empty_output(x, weight, stride, real)
    loops.convolve(sampling, _matrix(weight, sampling.x), added, out.permute(0, 2, 3, 1))
    return _as(out, x.dtype)


def _backward(
    grad: Tensor, x: Tensor, offset: Tensor, weight: Tensor, stride: int, shape: Shape, border: Border
) -> tuple[Tensor, Tensor, Tensor]:
    loops = compiled_loops()
    if loops is None or x.numel() == 0:
        return rows.backward(grad, x, offset, weight, stride, shape, border)
    sampling = _sampling(x, offset, stride, shape, border, loops.LANES)
    table, moves = sampling.x, sampling.offset
    matrix = _matrix(weight, table)
    grad_x, grad_moves = torch.empty_like(table), torch.empty_like(moves)
    grad_out = _as(grad, table.dtype).permute(0, 2, 3, 1).contiguous()
    differentiate = loops.differentiate if matrix.nbytes <= _MANY_WEIGHTS else loops.differentiate_many
    grad_matrix = differentiate(grad_out, sampling, matrix, grad_x, grad_moves)
    out, c, n, _ = weight.shape
    grad_weight = _some(_some(grad_matrix, 0, out).view(out, n, 1, table.shape[-1]), 3, c)
    return (
        _as(_some(grad_x, 3, c), x.dtype).contiguous().permute(0, 3, 1, 2),
        _as(grad_moves, offset.dtype).permute(0, 3, 1, 2),
        _as(grad_weight, weight.dtype).contiguous().permute(0, 3, 1, 2),
    )


def _matrix(weight: Tensor, table: Tensor) -> Tensor:
    """Weights as (O, N * C) for the channels of a table, contiguous; without a copy if they are channels-last."""
    filled = _fill(_as(weight, table.dtype).permute(0, 2, 3, 1), 3, table.shape[-1])
    return filled.flatten(1).contiguous()


def _sampling(x: Tensor, offset: Tensor, stride: int, shape: Shape, border: Border, lanes: int) -> Sampling:
    """Channels last, a multiple of `lanes` of them: channels of zeros are added."""
    real = torch.promote_types(x.dtype, torch.float32)
    table, moves = (_as(t, real).permute(0, 2, 3, 1) for t in (x, offset))
    return Sampling(_fill(table, 3, lanes).contiguous(), moves.contiguous(), _points(shape, real), stride, border)


@functools.lru_cache(maxsize=256)
def _points(shape: Shape, dtype: torch.dtype) -> Tensor:
    return torch.tensor(shape, dtype=dtype, device="cpu").t().contiguous()


def _as(t: Tensor, dtype: torch.dtype) -> Tensor:
    """As numbers of a type, without a call of PyTorch where they are: every call counts with one image."""
    return t if t.dtype == dtype else t.to(dtype)


def _some(t: Tensor, dim: int, count: int) -> Tensor:
    """The first of a dimension; the same tensor where those are all."""
    return t if t.shape[dim] == count else t.narrow(dim, 0, count)


def _fill(t: Tensor, dim: int, multiple: int) -> Tensor:
    """Zeros at the end of a dimension, up to a multiple; the same tensor where there is nothing to add."""
    missing = -t.shape[dim] % multiple
    return F.pad(t, (0, 0) * (t.ndim - 1 - dim) + (0, missing)) if missing else t


akconv2d_cpu = define("cpu", _forward, _backward)
