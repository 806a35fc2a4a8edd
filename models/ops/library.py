"""AKConv through sampling operators that other libraries and runtimes know: grid_sample and deformable convolution."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops.operator import refuse_derivatives
from models.ops.shapes import Shape
from models.ops.taps import Border, confine, positions


def _confined(x: Tensor, offset: Tensor, stride: int, shape: Shape, border: Border) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and border factor of every sample, each (B, N, h, w).

    Where a coordinate is NaN the factor is, and the coordinate 0: libraries lose NaN, or read memory not theirs.
    """
    rows, columns = (p.permute(0, 3, 1, 2) for p in positions(offset, stride, shape))
    rows, row_inside = confine(rows, x.shape[2], border)
    columns, column_inside = confine(columns, x.shape[3], border)
    factor = torch.ones_like(rows)
    if border == "published":
        factor = (2 - row_inside.to(rows.dtype)) * (2 - column_inside.to(rows.dtype))
    unknown = rows.isnan() | columns.isnan()
    return rows.nan_to_num(), columns.nan_to_num(), factor.masked_fill(unknown, math.nan)


def akconv2d_grid(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, stride: int, shape: Shape, border: Border
) -> Tensor:
    """Through `grid_sample`; arguments as `akconv2d`.

    Coordinates pass through grid_sample's [-1, 1], so at an exactly integer position rounding decides which of the two
    one-sided derivatives an offset gets.
    """
    b, c, height, width = x.shape
    rows, columns, factor = _confined(x, offset, stride, shape, border)
    n, h, w = rows.shape[1:]
    # align_corners=False, because the other convention cannot name a position on a map of width 1.
    grid = torch.stack(((2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1), dim=-1)  # (B, N, h, w, 2)
    padding = "zeros" if border == "zeros" else "border"
    samples = F.grid_sample(
        x.to(grid.dtype), grid.reshape(b, n * h, w, 2), mode="bilinear", padding_mode=padding, align_corners=False
    )  # (B, C, Nh, w)
    samples = samples.reshape(b, c, n, h, w) * factor[:, None]  # (B, C, N, h, w)
    out = torch.einsum("bcnhw,ocn->bohw", samples.to(x.dtype), weight.squeeze(-1))
    return out if bias is None else out + bias.view(-1, 1, 1)


def akconv2d_deform(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, stride: int, shape: Shape, border: Border
) -> Tensor:
    """Through torchvision's `deform_conv2d` with an (N, 1) kernel; arguments as `akconv2d`.

    Dilation 2 and padding N - 1 make its output as large as ours; what they do to the positions is taken back in the
    offsets, and the border factor becomes the modulation mask. It takes one type for all, so that is the coordinates'.
    """
    from torchvision.ops import deform_conv2d

    if not torch.compiler.is_compiling():
        refuse_derivatives("deform", x, offset, weight, bias)
    rows, columns, factor = _confined(x, offset, stride, shape, border)
    b, n, h, w = rows.shape
    cell_rows = torch.arange(h, device=x.device).view(h, 1) * stride
    cell_columns = torch.arange(w, device=x.device) * stride
    kernel_rows = (2 * torch.arange(n, device=x.device) - (n - 1)).view(n, 1, 1)
    moves = torch.stack((rows - cell_rows - kernel_rows, columns - cell_columns), dim=2)  # (B, N, 2, h, w)
    out = deform_conv2d(
        x.to(moves.dtype),
        moves.reshape(b, 2 * n, h, w),
        weight.to(moves.dtype),
        None if bias is None else bias.to(moves.dtype),
        stride=stride,
        padding=(n - 1, 0),
        dilation=(2, 1),
        mask=factor,
    )
    return out.to(x.dtype)
