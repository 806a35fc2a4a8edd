"""Numerics of AKConv: one public function, `akconv2d`, and its initial shapes."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from models.ops.cpu import akconv2d_cpu, loops_available
from models.ops.gpu import TRITON_TYPES, akconv2d_triton, triton_available
from models.ops.library import akconv2d_deform, akconv2d_grid
from models.ops.reference import akconv2d_reference
from models.ops.rows import akconv2d_rows
from models.ops.shapes import SHAPE_NAMES, Shape, initial_shape
from models.ops.taps import BORDERS, Border, output_size

Implementation = Literal["auto", "reference", "grid", "deform", "rows", "cpu", "triton"]

_KNOWN = get_args(Implementation)
_PATHS = {
    "reference": akconv2d_reference,
    "grid": akconv2d_grid,
    "deform": akconv2d_deform,
    "rows": akconv2d_rows,
    "cpu": akconv2d_cpu,
    "triton": akconv2d_triton,
}

__all__ = ["BORDERS", "SHAPE_NAMES", "Border", "Implementation", "Shape", "akconv2d", "initial_shape", "unchecked"]


def akconv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    shape: str | Sequence[Sequence[float]] | None = None,
    border: Border = "published",
    impl: Implementation = "auto",
) -> Tensor:
    """Convolution with N points at learned positions (AKConv, https://arxiv.org/abs/2311.11587).

    Args:
        x: (B, C, H, W); channels-last memory is fastest.
        offset: (B, 2N, h, w) displacements in input pixels, N of rows then N of columns; h = (H - 1) // stride + 1.
            Coordinates are computed in the type of x, at least float32.
        weight: (O, C, N, 1).
        bias: (O,) or None.
        stride: Input pixels per output cell, at least 1.
        shape: Starting points, see `initial_shape`.
        border: "published" clamps positions to the map and doubles a sample for every axis on which it lies at or
            beyond the border (what the published numbers were computed with), "clamp" only clamps, "zeros" counts
            everything outside as zero.
        impl: "auto" picks the fastest; "reference" is plain PyTorch; "rows", "grid" and "deform" are lowerings to
            embedding_bag, grid_sample and deform_conv2d; "cpu" is loops compiled by numba, "triton" fused kernels for
            GPUs. All agree to rounding, but at integer positions "grid" may take the other one-sided derivative.

    Returns:
        (B, O, h, w). Under autocast, samples and product are in the autocast type, coordinates in float32; as in
            PyTorch, it leaves float64 alone.

    Raises:
        ValueError: If shapes do not fit, a name is not known, or an implementation is asked for where it does not run,
            such as in forward mode differentiation.
    """
    points = _validate(x, offset, weight, bias, stride, shape, border, impl)
    if offset.dtype != x.dtype:
        offset = offset.to(torch.promote_types(x.dtype, torch.float32))
    return unchecked(x, offset, weight, bias, stride, points, border, impl)


def unchecked(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    points: Shape,
    border: Border,
    impl: str = "auto",
) -> Tensor:
    """`akconv2d` for a caller whose shapes and options fit by construction, with points of `initial_shape`."""
    device = x.device.type
    if device == "meta" or x.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        if weight.dtype != x.dtype or (bias is not None and bias.dtype != x.dtype):
            got = ", ".join(str(t.dtype) for t in (weight, bias) if t is not None)
            raise ValueError(f"weight and bias must have the type of x, {x.dtype}; got {got}")
        path = _PATHS[_choose(impl, x.device, x.dtype)]
        return path(x, offset, weight, bias, stride, points, border)
    dtype = torch.get_autocast_dtype(device)
    path = _PATHS[_choose(impl, x.device, dtype)]
    x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    with torch.autocast(device, enabled=False):
        return path(x, offset, weight, bias, stride, points, border)


def _choose(impl: str, device: torch.device, dtype: torch.dtype) -> str:
    if impl == "triton" and not (dtype in TRITON_TYPES and triton_available(device)):
        raise ValueError(
            f"impl='triton' cannot take {dtype} on {device}: it needs the package triton, an NVIDIA GPU from Ampere "
            "on, and float32, float16 or bfloat16; impl='auto' picks what runs"
        )
    if impl == "cpu" and not (device.type == "cpu" and loops_available()):
        raise ValueError(
            f"impl='cpu' on {device}: it needs a CPU tensor, the package numba without NUMBA_DISABLE_JIT, and Linux "
            "or macOS; impl='auto' picks what runs"
        )
    if impl != "auto":
        return impl
    if device.type == "cpu":
        return "cpu"  # which is "rows" where numba is missing
    # The kernels sum the gradient of x by atomic additions, in an order that changes from run to run.
    fused = device.type == "cuda" and dtype in TRITON_TYPES and not torch.are_deterministic_algorithms_enabled()
    return "triton" if fused and triton_available(device) else "rows"


def _validate(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    shape: str | Sequence[Sequence[float]] | None,
    border: str,
    impl: str,
) -> Shape:
    if border not in BORDERS:
        raise ValueError(f"unknown border rule {border!r}; known: {', '.join(BORDERS)}")
    if impl not in _KNOWN:
        raise ValueError(f"unknown impl {impl!r}; known: {', '.join(_KNOWN)}")
    if not isinstance(stride, int) or stride < 1:
        raise ValueError(f"stride is {stride} ({type(stride).__name__}), expected an int of at least 1")
    given = [x, offset, weight] if bias is None else [x, offset, weight, bias]
    if not all(isinstance(t, Tensor) for t in given):
        kinds = ", ".join(type(t).__name__ for t in given)
        raise ValueError(f"x, offset, weight and bias must be tensors, got {kinds}")
    if x.ndim != 4 or weight.ndim != 4 or weight.shape[3] != 1:
        raise ValueError(f"expected x (B, C, H, W), weight (O, C, N, 1), got {tuple(x.shape)}, {tuple(weight.shape)}")
    if any(t.device != x.device for t in given):
        raise ValueError(
            f"x is on {x.device}, others on {', '.join(str(t.device) for t in given[1:])}; expected one device"
        )
    if not all(t.is_floating_point() and t.itemsize > 1 for t in (x, offset)):
        raise ValueError(f"expected floating-point x and offset of 16 bits or more, got {x.dtype}, {offset.dtype}")
    b, c, height, width = x.shape
    n = weight.shape[2]
    if weight.shape[1] != c:
        raise ValueError(f"x has {c} channels, but weight expects {weight.shape[1]}")
    if any(size < 1 for size in (c, height, width, len(weight))):
        raise ValueError(f"only the batch may be empty, got x {tuple(x.shape)}, weight {tuple(weight.shape)}")
    expected = b, 2 * n, output_size(height, stride), output_size(width, stride)
    if offset.shape != expected:
        raise ValueError(f"offset is {tuple(offset.shape)}, expected {tuple(expected)} (B, 2N, h, w)")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias is {tuple(bias.shape)}, expected ({weight.shape[0]},)")
    return initial_shape(n, shape)
