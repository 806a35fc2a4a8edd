"""AKConv as weighted bags of rows: the fast path in stock PyTorch, for any device, tuned on the CPU.

In channels-last memory every sample is a weighted sum of four contiguous rows of a (B * H * W, C) table. That is what
`embedding_bag` computes, at memory speed, and its result already is the left operand of one matrix product. The
backward pass samples again instead of keeping the samples, so nothing of size N * C * h * w outlives a call.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops.shapes import Shape
from models.ops.taps import Border, axis_taps, confine, output_size, positions


def akconv2d_rows(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, stride: int, shape: Shape, border: Border
) -> Tensor:
    """Arguments as `akconv2d`; the result is channels-last in memory."""
    flat_shape = [coordinate for point in shape for coordinate in point]
    out = torch.ops.akconv.rows(x, offset, weight, stride, flat_shape, border)
    return out if bias is None else out + bias.view(-1, 1, 1)


def _points(flat_shape: list[float]) -> Shape:
    return tuple(zip(flat_shape[::2], flat_shape[1::2], strict=True))


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


def _table(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])  # (BHW, C), no copy if x is channels-last


def _matrix(weight: Tensor) -> Tensor:
    return weight.squeeze(-1).permute(0, 2, 1).reshape(len(weight), -1)  # (O, NC)


# Schemas written out: torch 2.6 cannot infer one from list[float].
_INPUTS = "Tensor x, Tensor offset, Tensor weight, int stride, float[] shape, str border"


@torch.library.custom_op("akconv::rows", mutates_args=(), schema=f"({_INPUTS}) -> Tensor")
def _rows(x: Tensor, offset: Tensor, weight: Tensor, stride: int, shape: list[float], border: str) -> Tensor:
    matrix = _matrix(weight)
    rows, columns = positions(offset, stride, _points(shape))
    b, h, w, _ = rows.shape
    if x.numel() == 0:
        return x.new_zeros((b, h, w, len(weight))).permute(0, 3, 1, 2)
    index, share, _, _ = _bags(rows, columns, x.shape[-2:], border, x.dtype)  # type: ignore[arg-type]
    samples = F.embedding_bag(index, _table(x), per_sample_weights=share, mode="sum")  # (M, C)
    out = samples.view(-1, matrix.shape[1]) @ matrix.t()  # (Bhw, O)
    return out.view(b, h, w, -1).permute(0, 3, 1, 2)


@torch.library.custom_op(
    "akconv::rows_backward", mutates_args=(), schema=f"(Tensor grad, {_INPUTS}) -> (Tensor, Tensor, Tensor)"
)
def _rows_backward(
    grad: Tensor, x: Tensor, offset: Tensor, weight: Tensor, stride: int, shape: list[float], border: str
) -> tuple[Tensor, Tensor, Tensor]:
    b, c, height, width = x.shape
    grad_x = x.new_zeros((b, height, width, c), dtype=torch.promote_types(x.dtype, torch.float32))
    if x.numel() == 0:
        return grad_x.to(x.dtype).permute(0, 3, 1, 2), torch.zeros_like(offset), torch.zeros_like(weight)
    matrix = _matrix(weight)
    rows, columns = positions(offset, stride, _points(shape))
    kind: Border = border  # type: ignore[assignment]
    index, share, row_weights, column_weights = _bags(rows, columns, (height, width), kind, x.dtype)
    table = _table(x)
    grad_out = _table(grad)  # (Bhw, O)

    samples = F.embedding_bag(index, table, per_sample_weights=share, mode="sum")  # (M, C)
    grad_matrix = grad_out.t() @ samples.view(len(grad_out), -1)  # (O, NC)
    del samples
    grad_samples = (grad_out @ matrix).view(-1, c)  # (M, C)

    flat, part = grad_x.view(-1, c), torch.empty_like(grad_samples, dtype=grad_x.dtype)
    for k in range(4):  # one corner at a time: a quarter of the memory, and no sorting as in embedding_bag's backward
        flat.index_add_(0, index[:, k], torch.mul(grad_samples, share[:, k : k + 1], out=part))

    starts = torch.arange(0, index.numel(), 4, device=x.device)
    owner = torch.arange(len(index), device=x.device).repeat_interleave(4)
    grad_share = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad_samples, table, index.view(-1), starts, owner, 0
    ).view(*row_weights.shape, 2)  # (B, h, w, N, row tap, column tap)
    grad_rows = ((grad_share * column_weights[..., None, :]).sum(-1) * _slopes(rows, height, kind)).sum(-1)
    grad_columns = ((grad_share * row_weights[..., :, None]).sum(-2) * _slopes(columns, width, kind)).sum(-1)
    grad_offset = torch.cat((grad_rows, grad_columns), dim=-1).to(offset.dtype)  # (B, h, w, 2N)
    grad_weight = grad_matrix.view(len(weight), -1, c).permute(0, 2, 1).unsqueeze(-1)  # (O, C, N, 1)
    return (
        grad_x.to(x.dtype).permute(0, 3, 1, 2),
        grad_offset.permute(0, 3, 1, 2),
        grad_weight.contiguous(),
    )


def _slopes(p: Tensor, size: int, border: Border) -> Tensor:
    """Derivative of both tap weights in the coordinate: -1 and 1 inside, 0 where the coordinate was confined."""
    q, inside = confine(p, size, border)
    slope = torch.stack((-inside.to(p.dtype), inside.to(p.dtype)), dim=-1)  # (..., 2)
    if border == "zeros":
        cell = q.floor()
        slope = slope * torch.stack((cell >= 0, cell + 1 < size), dim=-1)
    return slope


@_rows.register_fake
def _(x: Tensor, offset: Tensor, weight: Tensor, stride: int, shape: list[float], border: str) -> Tensor:
    b, _, height, width = x.shape
    size = output_size(height, stride), output_size(width, stride)
    return x.new_empty((b, *size, weight.shape[0])).permute(0, 3, 1, 2)


@_rows_backward.register_fake
def _(
    grad: Tensor, x: Tensor, offset: Tensor, weight: Tensor, stride: int, shape: list[float], border: str
) -> tuple[Tensor, Tensor, Tensor]:
    b, c, height, width = x.shape
    _, _, h, w = offset.shape
    return (
        x.new_empty((b, height, width, c)).permute(0, 3, 1, 2),
        offset.new_empty((b, h, w, offset.shape[1])).permute(0, 3, 1, 2),
        weight.new_empty(weight.shape),
    )


def _remember(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, offset, weight, ctx.stride, ctx.shape, ctx.border = inputs
    ctx.save_for_backward(x, offset, weight)


def _differentiate(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    grads = torch.ops.akconv.rows_backward(grad, *ctx.saved_tensors, ctx.stride, ctx.shape, ctx.border)
    return *grads, None, None, None


_rows.register_autograd(_differentiate, setup_context=_remember)
