"""How the loops of `models.ops.cpu_kernels` are called: their memory, their threads.

They run in the threads of PyTorch's own loops (OpenMP's `GOMP_parallel`): those of another pool would compete with
PyTorch's, which go on spinning for milliseconds after each operation (5 of 23 ms at 4 x 16 x 320 x 320). OpenMP hands
over one address, so a loop reads all its arguments from one block of integers: sizes, then addresses.
"""

import ctypes
import functools
from collections.abc import Callable

import torch
from numba import cfunc, types
from numba.core.ccallback import CFunc
from torch import Tensor

from models.ops import cpu_kernels as kernels
from models.ops.cpu_kernels import ADDRESSES, ARGUMENT, CACHE, SIZES, TABLES, TILE, levels_of
from models.ops.cpu_vectors import LANES, ROWS, WIDTH
from models.ops.sampling import Sampling
from models.ops.taps import BORDERS

__all__ = ["LANES", "WIDTH", "convolve", "differentiate", "run", "scatter"]

_Block = ctypes.c_int64 * (SIZES + ADDRESSES)
_SHARES_OF_IMAGE = 8
"""Most threads that share an image in a backward pass: all but one take memory for a gradient of the whole image."""


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
    numbers = n * c + many * WIDTH + TABLES * n
    panels = out.new_empty((many, n, c, WIDTH))
    scratch = out.new_empty((shares, TILE * numbers))
    loop = kernels.convolve_float64 if out.dtype == torch.float64 else kernels.convolve_float32
    run(loop, shares, sampling, len(weight), panels, bias, out, scratch, weight=weight)


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
    levels = levels_of(grad.numel() // out, shares)
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
    tables = grad_x.new_zeros((shares, TILE * TABLES * len(sampling.start)))
    loop = kernels.differentiate_float64 if grad_x.dtype == torch.float64 else kernels.differentiate_float32
    run(loop, shares, sampling, out, grad_x, first_places, grad_offset, tables, *tensors)
    for image, part in zip(begun, apart, strict=True):
        grad_x[image] += part


def run(
    loop: Callable[..., None], shares: int, sampling: Sampling, out: int, *tensors: Tensor, weight: Tensor | None = None
) -> None:
    """Call a loop in as many threads as there are shares.

    It is given a block of int64. Sizes: B, H, W, C, stride, border rule, N, O, shares and, of a forward pass, channels
    of the weights and their strides O, C, N. Then the addresses of x, offsets, starting points and all tensors given.

    Raises:
        ValueError: If memory other than that of the weights is not contiguous.
    """
    team, tensors = shares, (sampling.x, sampling.offset, sampling.start, *tensors)
    if not all(t.is_contiguous() for t in tensors):
        raise ValueError("the loops read contiguous memory only")
    numbers = *sampling.x.shape, sampling.stride, BORDERS.index(sampling.border), len(sampling.start), out, shares
    if weight is not None:
        numbers, tensors = (*numbers, weight.shape[1], *weight.stride()[:3]), (*tensors, weight)
        team = max(shares, min(torch.get_num_threads(), -(-out // WIDTH)))  # small maps may have many weights
    block = _Block(*numbers)
    block[SIZES : SIZES + len(tensors)] = [t.data_ptr() for t in tensors]
    _openmp()(_compiled(loop).address, block, team, 0)


@functools.cache
def _openmp() -> Callable[..., None]:
    """GOMP_parallel(function, its argument, number of threads, flags), as PyTorch has loaded it."""
    run = ctypes.CDLL(None).GOMP_parallel
    run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    run.restype = None
    return run


@functools.cache
def _compiled(loop: Callable[..., None]) -> CFunc:
    return cfunc(types.void(ARGUMENT), cache=CACHE)(loop)
