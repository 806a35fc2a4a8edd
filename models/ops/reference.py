"""AKConv in plain PyTorch: what it means, written to be read. Every faster path is tested against it."""

import torch
from torch import Tensor

from models.ops.shapes import Shape
from models.ops.taps import Border, axis_taps, positions


def akconv2d_reference(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, stride: int, shape: Shape, border: Border
) -> Tensor:
    """Four gathers with bilinear weights, then one product with the weights; arguments as `akconv2d`."""
    b, c, height, width = x.shape
    rows, columns = positions(offset, stride, shape)  # (B, h, w, N)
    row_cells, row_weights = axis_taps(rows, height, border)  # (B, h, w, N, 2)
    column_cells, column_weights = axis_taps(columns, width, border)  # (B, h, w, N, 2)
    flat = x.flatten(2)  # (B, C, HW)
    samples = x.new_zeros(())
    for i in (0, 1):
        for j in (0, 1):
            cell = row_cells[..., i] * width + column_cells[..., j]  # (B, h, w, N)
            share = (row_weights[..., i] * column_weights[..., j]).to(x.dtype)  # (B, h, w, N)
            index = cell.flatten(1)[:, None].expand(-1, c, -1)  # (B, C, hwN)
            samples = samples + flat.gather(2, index).view(b, c, *cell.shape[1:]) * share[:, None]  # (B, C, h, w, N)
    out = torch.einsum("bchwn,ocn->bohw", samples, weight.squeeze(-1))
    return out if bias is None else out + bias.view(-1, 1, 1)
