"""AKConv as weighted bags of rows: the fast path in stock PyTorch alone, for any device.

In channels-last memory every sample is a weighted sum of four contiguous rows of a (B * H * W, C) table. That is what
`embedding_bag` computes, at memory speed, and its result already is the left operand of one matrix product.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops.operator import define, empty_output
from models.ops.shapes import Shape
from models.ops.taps import Border, axis_taps, confine, positions


def rows_of(t: Tensor) -> Tensor:
    """(B, C, H, W) as a (BHW, C) table, without a copy if it is channels-last."""
    return t.permute(0, 2, 3, 1).reshape(-1, t.shape[1])


def matrix_of(weight: Tensor) -> Tensor:
    """(O, C, N, 1) as (O, NC), in the order of the samples."""
    return weight.squeeze(-1).permute(0, 2, 1).reshape(len(weight), -1)


def weight_of(matrix: Tensor, like: Tensor) -> Tensor:
    """The inverse of `matrix_of`, channels-last."""
    o, c, n, _ = like.shape
    return matrix.view(o, n, 1, c).permute(0, 3, 1, 2)


def product(samples: Tensor, matrix: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
    """Samples (M, NC) times matrix (O, NC), plus bias (O,): (M, O), written to `out` if given."""
    if bias is None:
        return torch.mm(samples, matrix.t(), out=out)
    return torch.addmm(bias, samples, matrix.t(), out=out)


def _bags(
    rows: Tensor, columns: Tensor, size: tuple[int, int], border: Border, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four table rows and weights a sample: indices and weights (M, 4), weights of each axis (B, h, w, N, 2)."""
    height, width = size
    row_cells, row_weights = axis_taps(rows, height, border)  # (B, h, w, N, 2)
    column_cells, column_weights = axis_taps(columns, width, border)  # (B, h, w, N, 2)
    image = torch.arange(len(rows), device=rows.device).view(-1, 1, 1, 1, 1) * height  # (B, 1, 1, 1, 1)
    first = (row_cells + image) * width  # (B, h, w, N, 2)
    index = (first[..., :, None] + column_cells[..., None, :]).view(-1, 4)  # (M, 4)
    share = (row_weights[..., :, None] * column_weights[..., None, :]).view(-1, 4)  # (M, 4)
    return index, share.to(dtype), row_weights, column_weights


def forward(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, stride: int, shape: Shape, border: Border
) -> Tensor:
    """See `models.ops.operator.Forward`."""
    out = empty_output(x, weight, stride)
    if x.numel():
        rows, columns = positions(offset, stride, shape)
        index, share, _, _ = _bags(rows, columns, x.shape[-2:], border, x.dtype)  # type: ignore[arg-type]
        samples = F.embedding_bag(index, rows_of(x), per_sample_weights=share, mode="sum")  # (M, C)
        cells = out.permute(0, 2, 3, 1).view(-1, len(weight))  # (B * h * w, O)
        product(samples.view(len(cells), -1), matrix_of(weight), bias, cells)
    return out


def backward(
    grad: Tensor, x: Tensor, offset: Tensor, weight: Tensor, stride: int, shape: Shape, border: Border
) -> tuple[Tensor, Tensor, Tensor]:
    """See `models.ops.operator.Backward`."""
    with torch.autocast(x.device.type, enabled=False):  # of a caller whose forward pass was outside
        return _backward(grad, x, offset, weight, stride, shape, border)


def _backward(
    grad: Tensor, x: Tensor, offset: Tensor, weight: Tensor, stride: int, shape: Shape, border: Border
) -> tuple[Tensor, Tensor, Tensor]:
    b, c, height, width = x.shape
    grad_x = x.new_zeros((b, height, width, c), dtype=torch.promote_types(x.dtype, torch.float32))
    if x.numel() == 0:
        grad_offset = offset.new_zeros(offset.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
        grad_weight = weight_of(weight.new_zeros(matrix_of(weight).shape), weight)
        return grad_x.to(x.dtype).permute(0, 3, 1, 2), grad_offset, grad_weight
    rows, columns = positions(offset, stride, shape)
    index, share, row_weights, column_weights = _bags(rows, columns, (height, width), border, x.dtype)
    table = rows_of(x)
    grad_out = rows_of(grad)  # (Bhw, O)

    samples = F.embedding_bag(index, table, per_sample_weights=share, mode="sum")  # (M, C)
    grad_matrix = grad_out.t() @ samples.view(len(grad_out), -1)  # (O, NC)
    del samples
    grad_samples = (grad_out @ matrix_of(weight)).view(-1, c)  # (M, C)

    flat, part = grad_x.view(-1, c), torch.empty_like(grad_samples, dtype=grad_x.dtype)
    for k in range(4):  # one corner at a time: a quarter of the memory, and no sorting as in embedding_bag's backward
        flat.index_add_(0, index[:, k], torch.mul(grad_samples, share[:, k : k + 1], out=part))

    starts = torch.arange(0, index.numel(), 4, device=x.device)
    owner = torch.arange(len(index), device=x.device).repeat_interleave(4)
    grad_share = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad_samples, table, index.view(-1), starts, owner, 0
    ).view(*row_weights.shape, 2)  # (B, h, w, N, row tap, column tap)
    grad_rows = _slope((grad_share * column_weights[..., None, :]).sum(-1), rows, height, border)
    grad_columns = _slope((grad_share * row_weights[..., :, None]).sum(-2), columns, width, border)
    grad_offset = torch.cat((grad_rows, grad_columns), dim=-1).to(offset.dtype)  # (B, h, w, 2N)
    return grad_x.to(x.dtype).permute(0, 3, 1, 2), grad_offset.permute(0, 3, 1, 2), weight_of(grad_matrix, weight)


def _slope(grad_weights: Tensor, p: Tensor, size: int, border: Border) -> Tensor:
    """Gradient of a coordinate (...) from those of its tap weights (..., 2), whose derivatives are -1 and 1.

    It is 0 where the coordinate was confined, even if the gradients are NaN because of the other coordinate.
    """
    q, inside = confine(p, size, border)
    lower = upper = inside
    if border == "zeros":
        cell = q.floor()
        lower, upper = inside & (cell >= 0), inside & (cell + 1 < size)
    return grad_weights[..., 1].where(upper, 0.0) - grad_weights[..., 0].where(lower, 0.0)


akconv2d_rows = define("rows", forward, backward)
