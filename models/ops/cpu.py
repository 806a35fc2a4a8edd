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
from models.ops.rows import matrix_of, weight_of
from models.ops.sampling import Sampling
from models.ops.shapes import Shape
from models.ops.taps import Border

_MANY_WEIGHTS = 1 << 20
"""Bytes of weights beyond which a backward pass leaves its matrix products to PyTorch: every tile of the loops would
move them through the caches three times (256 -> 512 channels, N = 5, 2.6 MB: 1.15 to 1.35 times slower)."""


@functools.cache
def compiled_loops() -> ModuleType | None:
    """`models.ops.cpu_calls`, or None where numba or the OpenMP library it needs is missing."""
    if sys.platform == "win32" or not hasattr(ctypes.CDLL(None), "GOMP_parallel"):
        return None
    try:
        from models.ops import cpu_calls
    except ImportError:
        return None
    return cpu_calls


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
    added = sampling.x.new_zeros(len(weight)) if bias is None else _as(bias, real).contiguous()
    out = empty_output(x, weight, stride, real)
    loops.convolve(sampling, _as(weight, real), added, out.permute(0, 2, 3, 1))
    return _as(out, x.dtype)


def _backward(
    grad: Tensor, x: Tensor, offset: Tensor, weight: Tensor, stride: int, shape: Shape, border: Border
) -> tuple[Tensor, Tensor, Tensor]:
    loops = compiled_loops()
    if loops is None or x.numel() == 0:
        return rows.backward(grad, x, offset, weight, stride, shape, border)
    sampling = _sampling(x, offset, stride, shape, border, loops.LANES)
    table, moves = sampling.x, sampling.offset
    padded = _fill(weight.to(table.dtype), 1, loops.LANES)
    matrix = matrix_of(padded)  # (O, NC)
    grad_x, grad_moves = torch.zeros_like(table), torch.empty_like(moves)
    grad_out = grad.to(table.dtype).permute(0, 2, 3, 1).contiguous()
    pass_back = _pass_back if matrix.nbytes <= _MANY_WEIGHTS else _pass_many_back
    grad_matrix = pass_back(loops, grad_out, sampling, matrix, grad_x, grad_moves)
    c = x.shape[1]
    return (
        grad_x[..., :c].to(x.dtype).contiguous().permute(0, 3, 1, 2),
        grad_moves.to(offset.dtype).permute(0, 3, 1, 2),
        weight_of(grad_matrix, padded)[:, :c].to(weight.dtype).contiguous(),
    )


def _pass_back(
    loops: ModuleType, grad: Tensor, sampling: Sampling, matrix: Tensor, grad_x: Tensor, grad_moves: Tensor
) -> Tensor:
    """All of the backward pass in the loops; the gradient of the matrix (O, NC)."""
    filled = _fill(matrix, 1, loops.WIDTH)
    panels = filled.unflatten(1, (-1, loops.WIDTH)).transpose(0, 1).contiguous()
    return loops.differentiate(grad, sampling, panels, grad_x, grad_moves)[: len(matrix), : matrix.shape[1]]


def _pass_many_back(
    loops: ModuleType, grad: Tensor, sampling: Sampling, matrix: Tensor, grad_x: Tensor, grad_moves: Tensor
) -> Tensor:
    """The same with PyTorch's matrix products, as many images at a time as there are threads."""
    threads = torch.get_num_threads()
    grad_matrix = torch.zeros_like(matrix)
    buffers = grad.new_empty((2, min(threads, len(grad)) * grad[0, ..., 0].numel(), matrix.shape[1]))
    for first in range(0, len(grad), threads):
        images = slice(first, first + threads)
        grads = grad[images].flatten(0, 2)  # (images * h * w, O)
        samples, grad_samples = buffers[:, : len(grads)]
        torch.mm(grads, matrix, out=grad_samples)
        loops.scatter(grad_samples, sampling.of(images), samples, grad_x[images], grad_moves[images])
        grad_matrix.addmm_(grads.t(), samples)
    return grad_matrix


def _sampling(x: Tensor, offset: Tensor, stride: int, shape: Shape, border: Border, lanes: int) -> Sampling:
    """Channels last, a multiple of `lanes` of them: channels of zeros are added."""
    real = torch.promote_types(x.dtype, torch.float32)
    table, moves = (_as(t, real).permute(0, 2, 3, 1) for t in (x, offset))
    return Sampling(_fill(table, 3, lanes).contiguous(), moves.contiguous(), _points(shape, real), stride, border)


@functools.lru_cache(maxsize=256)
def _points(shape: Shape, dtype: torch.dtype) -> Tensor:
    return torch.tensor(shape, dtype=dtype, device="cpu")


def _as(t: Tensor, dtype: torch.dtype) -> Tensor:
    """As numbers of a type, without a call of PyTorch where they are: every call counts with one image."""
    return t if t.dtype == dtype else t.to(dtype)


def _fill(t: Tensor, dim: int, multiple: int) -> Tensor:
    """Zeros at the end of a dimension, up to a multiple; the same tensor where there is nothing to add."""
    missing = -t.shape[dim] % multiple
    return F.pad(t, (0, 0) * (t.ndim - 1 - dim) + (0, missing)) if missing else t


akconv2d_cpu = define("cpu", _forward, _backward)
