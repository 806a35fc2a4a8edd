"""How the loops of `models.ops.cpu_kernels` are called: their memory, their threads.

They run in the threads of PyTorch's own loops (OpenMP's `GOMP_parallel`): those of another pool would compete with
PyTorch's, which go on spinning for milliseconds after each operation (5 of 23 ms at 4 x 16 x 320 x 320). OpenMP hands
over one address, so a loop reads all its arguments from one block of integers: sizes, then addresses.
"""

import ctypes
import functools
import itertools
import warnings
from collections.abc import Callable

import torch
from numba import cfunc, types
from numba.core.ccallback import CFunc
from numba.core.errors import NumbaError
from torch import Tensor

from models.ops import cpu_kernels as kernels
from models.ops.cpu_jit import ADDRESSES, ARGUMENT, CACHE, SIZES
from models.ops.cpu_kernels import TILE, convolve_scratch, differentiate_scratch, levels_of
from models.ops.cpu_llvm import LANES
from models.ops.cpu_products import row_step
from models.ops.cpu_vectors import ROWS, WIDTH
from models.ops.sampling import Sampling
from models.ops.taps import BORDERS

__all__ = ["LANES", "convolve", "differentiate", "differentiate_many", "run"]

_Block = ctypes.c_int64 * (SIZES + ADDRESSES)
_NOT_KEPT = (
    "numba could not read or write the machine code of AKConv ({}), so that each process compiles it anew; free some "
    "disk space, or delete *.nbi and *.nbc in models/ops/__pycache__ (in NUMBA_CACHE_DIR, if you have set that)"
)
_SHARES_OF_IMAGE = 8
"""Most threads that share an image in a backward pass: all but one take memory for a gradient of the whole image."""


def convolve(sampling: Sampling, matrix: Tensor, bias: Tensor, out: Tensor) -> None:
    """Take the samples of all output cells and combine them.

    All tensors are contiguous, and of one type, float32 or float64; the channels of x are a multiple of `LANES`.

    Args:
        sampling: What is sampled where.
        matrix: (O, N * C) weights.
        bias: (O,).
        out: (B, h, w, O), overwritten.
    """
    shares = max(1, min(torch.get_num_threads(), out.numel() // out.shape[-1] // TILE))
    (many, depth), n = matrix.shape, sampling.start.shape[1]
    columns = _up_to(many, LANES)
    panels = out.new_empty(_up_to(many, WIDTH) * depth)
    scratch = out.new_empty((shares, convolve_scratch.py_func(n, depth, columns)))
    loop = kernels.convolve_float64 if out.dtype == torch.float64 else kernels.convolve_float32
    run(loop, shares, sampling, many, panels, bias, out, scratch, matrix)


def differentiate(grad: Tensor, sampling: Sampling, matrix: Tensor, grad_x: Tensor, grad_offset: Tensor) -> Tensor:
    """Pass the gradient of the output on to input, offsets and weights; samples are taken again.

    Shared as `_scatter` says, so that the result is the same in every run with the same number of threads.

    Args:
        grad: (B, h, w, O).
        sampling: As in `convolve`.
        matrix: As in `convolve`.
        grad_x: (B, H, W, C), overwritten.
        grad_offset: (B, h, w, 2N), overwritten.

    Returns:
        (O, N * C) gradient of the weights; O rounded up to a multiple of ROWS.
    """
    columns, depth = _up_to(len(matrix), ROWS), matrix.shape[1]
    shares = _shares(grad_x)
    grad_weights = grad.new_zeros((shares, levels_of.py_func(grad.numel() // grad.shape[-1], shares), columns, depth))
    scratch = grad.new_zeros((shares, differentiate_scratch.py_func(sampling.start.shape[1], depth, columns, False)))
    _scatter(grad, sampling, matrix, grad_x, grad_offset, scratch, grad_weights)
    return grad_weights[:, 0].sum(0)


def differentiate_many(grad: Tensor, sampling: Sampling, matrix: Tensor, grad_x: Tensor, grad_offset: Tensor) -> Tensor:
    """The same for many weights, of which not every thread is to have gradients.

    Samples and gradients are kept for as many images as there are threads, and then multiplied, some columns of the
    result by each thread.
    """
    threads = torch.get_num_threads()
    columns, depth = _up_to(len(matrix), ROWS), matrix.shape[1]
    images, h, w, _ = grad.shape
    cells = min(threads, images) * h * w
    samples = grad.new_empty(_up_to(depth, WIDTH) * cells)
    grads = grad.new_empty((cells + ROWS, row_step.py_func(columns)))
    # What pads the last products does not matter, but denormal numbers cost a lot.
    grads[cells:] = 0
    if len(matrix) < columns:
        grads[:, len(matrix) : columns] = 0
    scratch = grad.new_empty((threads, differentiate_scratch.py_func(sampling.start.shape[1], depth, columns, True)))
    grad_weights = grad.new_empty((columns, depth))
    for first in range(0, images, threads):
        of_all = grad, sampling.x, sampling.offset, grad_x, grad_offset
        given, x, offset, *found = of_all if images <= threads else (t[first : first + threads] for t in of_all)
        results = grad_weights, samples, grads
        part = sampling._replace(x=x, offset=offset)
        _scatter(given, part, matrix, *found, scratch, *results, kept=True, adding=first > 0)
    return grad_weights


def _up_to(number: int, multiple: int) -> int:
    """The next multiple."""
    return number + -number % multiple


def _shares(grad_x: Tensor) -> int:
    """Into how many parts a backward pass is divided."""
    return min(torch.get_num_threads(), _SHARES_OF_IMAGE * grad_x.shape[0])


def _scatter(
    grad: Tensor,
    sampling: Sampling,
    matrix: Tensor,
    grad_x: Tensor,
    grad_offset: Tensor,
    scratch: Tensor,
    *results: Tensor,
    kept: bool = False,
    adding: bool = False,
) -> None:
    """Run the loop of the backward pass, a range of output cells for each thread. No two write to the same place.

    Results are gradients of the weights, added to, a copy for each share. Where samples are `kept`, there is one copy,
    added to only if `adding`, and memory for samples and for gradients of the output.

    Offsets lead anywhere in their image. So a share that begins within an image gathers the gradient of that image
    apart, to be added to grad_x at the end.
    """
    shares, (images, h, w, out) = _shares(grad_x), grad.shape
    starts = [divmod(images * h * w * share // shares, h * w) for share in range(shares)]
    begun = [image for image, cell in starts if cell]
    apart = grad_x.new_empty((len(begun), *grad_x.shape[1:]))
    # Addresses are counted, as every call of PyTorch takes time that counts with one image.
    image_bytes = apart.stride(0) * apart.element_size()
    own, given = itertools.count(apart.data_ptr(), image_bytes), grad_x.data_ptr()
    places = [next(own) if cell else given + image * image_bytes for image, cell in starts]
    first_places = (ctypes.c_int64 * shares)(*places)
    loop = kernels.differentiate_float64 if grad_x.dtype == torch.float64 else kernels.differentiate_float32
    gradients = grad_x, ctypes.addressof(first_places), grad_offset
    run(loop, shares, sampling, out, *gradients, grad, scratch, matrix, *results, kept=kept, adding=adding)


def run(
    loop: Callable[..., None],
    shares: int,
    sampling: Sampling,
    out: int,
    *memory: Tensor | int,
    kept: bool = False,
    adding: bool = False,
) -> None:
    """Call a loop in as many threads as there are shares.

    It is given a block of int64. Sizes: B, H, W, C, stride, border rule, N, O, shares, and for a backward pass `kept`
    and `adding` of `_scatter`. Then the addresses of x, offsets, starting points and all memory given, tensors or
    addresses.

    Raises:
        ValueError: If memory is not contiguous.
    """
    memory = sampling.x, sampling.offset, sampling.start, *memory
    if not all(isinstance(part, int) or part.is_contiguous() for part in memory):
        raise ValueError("the loops read contiguous memory only")
    border, n = BORDERS.index(sampling.border), sampling.start.shape[1]
    block = _Block(*sampling.x.shape, sampling.stride, border, n, out, shares, kept, adding)
    block[SIZES : SIZES + len(memory)] = [part if isinstance(part, int) else part.data_ptr() for part in memory]
    columns = n * sampling.x.shape[3] if kept else out
    team = max(shares, min(torch.get_num_threads(), -(-columns // WIDTH)))  # small maps may have many weights
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
    kind = types.void(ARGUMENT)
    if CACHE:
        try:
            return cfunc(kind, cache=True)(loop)
        except NumbaError:
            raise
        except Exception as error:  # a damaged file may end in any of them
            warnings.warn(_NOT_KEPT.format(repr(error)), stacklevel=2)
    return cfunc(kind)(loop)
