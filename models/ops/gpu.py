"""AKConv on a GPU as three Triton kernels: samples exist in registers only, forward and backward.

What cannot be avoided, for M = B * h * w output positions, in numbers of the input's type (offset and its gradient in
theirs):

- forward: reads x (B * H * W * C) and offset (2N * M) once, writes M * O; 2 * M * N * C * O operations in the product
  and 8 * M * N * C in the samples. The 4 * M * N * C numbers gathered come out of the caches.
- backward: reads x, offset and the gradient (M * O), writes the gradients of x and offset; two products instead of
  one, and the samples again. The gradient of x takes 4 * M * N * C additions of float32 in the L2 cache.

Coordinates, sums and products are float32; float32 inputs are multiplied exactly, not in TF32. Only the gradient of x
depends on the order in which the GPU does things: it is summed by atomic additions.
"""

import os
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from models.ops.operator import define, empty_output
from models.ops.shapes import Shape
from models.ops.taps import Border

TRITON_TYPES = (torch.float32, torch.float16, torch.bfloat16)

_PROGRAMS = 1024  # of the weight's gradient: some for each of 132 multiprocessors, at most 32 MB of partial sums


def triton_available(device: torch.device) -> bool:
    """Whether the kernels run there: on NVIDIA GPUs from Ampere on, on a CPU only in Triton's interpreter.

    Args:
        device: Where the inputs are.
    """
    if find_spec("triton") is None:
        return False
    if device.type == "cuda":
        return torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"


# What torch.compiler.assume_constant_result does, less its import of the whole compiler, and of Triton, at our start.
triton_available._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache(maxsize=256)
def _points(shape: Shape, device: torch.device) -> Tensor:
    """The initial shape on the device, copied once: a copy in every step would wait for the GPU."""
    return torch.tensor(shape, dtype=torch.float32, device=device)


def tiles(kernel: str, c: int, o: int, dtype: torch.dtype) -> dict[str, int]:
    """Tile sizes and warps of a kernel; by what compiles without spilled registers, into 99 KB of shared memory.

    Args:
        kernel: Its name in models/ops/gpu_kernels.py.
        c: Channels in.
        o: Channels out.
        dtype: Of x and weight.

    Returns:
        Keyword arguments of the launch.
    """
    half = dtype != torch.float32
    odd = c % 16 != 0 or o % 16 != 0  # rows that cannot be read in whole vectors take many registers
    bm = 64
    if kernel == "forward":  # as many channels out as possible: each further tile of them samples again
        bo = _power(o, 256 if half else 128)
        bc = _power(c, 64 if half and bo <= 128 else 32)
    elif kernel == "backward_input":
        bm = 32 if odd else 64
        bo, bc = _power(o, 128 if half else 64), _power(c, 32)
    else:
        bm = 64 if half else 32
        bo, bc = _power(o, 128), _power(c, 64)
    if odd:
        bc = 16
    small = bo <= 64 and bc <= (16 if kernel == "backward_input" or (kernel == "forward" and not half) else 32)
    return {"BM": bm, "BC": bc, "BO": bo, "num_warps": 4 if small and not odd else 8, "num_stages": 2}


def _power(n: int, most: int) -> int:
    """The power of two from n on, at least 16 (the least `tl.dot` takes)."""
    return min(max(1 << (n - 1).bit_length(), 16), most)


def _rows(t: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H, W, C) in dense memory, without a copy if it is channels-last."""
    return t.permute(0, 2, 3, 1).contiguous()


def _geometry(x: Tensor, offset: Tensor, stride: int) -> tuple[int, ...]:
    """The arguments that all kernels share: sizes, stride, and the strides of offset."""
    n, (h, w) = offset.shape[1] // 2, offset.shape[2:]
    return n, *x.shape[2:], h, w, stride, *offset.stride()


def _forward(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, stride: int, shape: Shape, border: Border
) -> Tensor:
    c, o = x.shape[1], len(weight)
    result = empty_output(x, weight, stride)
    out = result.permute(0, 2, 3, 1)
    count = out[..., 0].numel()
    if weight.dtype != x.dtype:
        raise ValueError(f"x is {x.dtype}, but weight is {weight.dtype}")
    if count:
        from models.ops import gpu_kernels as kernels

        tile = tiles("forward", c, o, x.dtype)
        grid = (-(-count // tile["BM"]) * -(-o // tile["BO"]),)
        added = None if bias is None else bias.contiguous()
        with torch.cuda.device_of(x):
            kernels.forward[grid](
                _rows(x), offset, _points(shape, x.device), _by_point(weight), added, out, count, c, o,
                *_geometry(x, offset, stride), BORDER=border, BIAS=bias is not None, **tile,
            )  # fmt: skip
    return result


def _by_point(weight: Tensor) -> Tensor:
    """(O, C, N, 1) as (N, C, O) in dense memory."""
    return weight.squeeze(-1).permute(2, 1, 0).contiguous()


def _backward(
    grad: Tensor, x: Tensor, offset: Tensor, weight: Tensor, stride: int, shape: Shape, border: Border
) -> tuple[Tensor, Tensor, Tensor]:
    b, c, height, width = x.shape
    o, _, n, _ = weight.shape
    count = grad[:, 0].numel()
    grad_x = x.new_zeros((b, height, width, c), dtype=torch.float32)
    grad_offset = offset.new_empty((*grad.shape[:1], *grad.shape[2:], 2 * n))
    grad_weight = weight.new_zeros((o, n, 1, c))
    if count:
        from models.ops import gpu_kernels as kernels

        by_row, rows, points = _rows(grad), _rows(x), _points(shape, x.device)
        geometry = _geometry(x, offset, stride)
        with torch.cuda.device_of(x):
            tile = tiles("backward_input", c, o, x.dtype)
            grid = (-(-count // tile["BM"]) * n,)
            kernels.backward_input[grid](
                by_row, rows, offset, points, _by_point(weight), grad_x, grad_offset, count, c, o,
                *geometry, BORDER=border, **tile,
            )  # fmt: skip
            tile = tiles("backward_weight", c, o, x.dtype)
            parts = n * -(-c // tile["BC"]) * -(-o // tile["BO"])
            steps = -(-count // tile["BM"])
            splits = max(1, min(_PROGRAMS // parts, steps))
            share = -(-steps // splits) * tile["BM"]
            partial = x.new_empty((splits, n, c, o), dtype=torch.float32)
            kernels.backward_weight[(parts * splits,)](
                by_row, rows, offset, points, partial, count, share, c, o, *geometry, BORDER=border, **tile
            )
        grad_weight = partial.sum(0).permute(2, 0, 1).unsqueeze(2).to(weight.dtype).contiguous()
    return grad_x.to(x.dtype).permute(0, 3, 1, 2), grad_offset.permute(0, 3, 1, 2), grad_weight.permute(0, 3, 1, 2)


akconv2d_triton = define("triton", _forward, _backward)
