"""The baseline: AKConv as the paper and its published code compute it, in their way, written from the maths."""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops import initial_shape


def published(x: Tensor, offset: Tensor, weight: Tensor, *, stride: int) -> Tensor:
    """Four gathers in NCHW, each with an index for every channel, then a strided (N, 1) convolution.

    Grid and initial shape are made anew in every call, and autograd keeps all that it needs, as in the published way of
    computing. The border rule is "published": its two weights along an axis are 1 - |p - cell|, and as beyond a border
    both cells are the last one, they add up to 2.

    Args:
        x: (B, C, H, W).
        offset: (B, 2N, h, w) in input pixels, N of rows, then N of columns.
        weight: (O, C, N, 1).
        stride: Input pixels per output cell.

    Returns:
        (B, O, h, w).
    """
    b, c, height, width = x.shape
    n, (h, w) = weight.shape[2], offset.shape[2:]
    rows, columns = (torch.arange(size, device=x.device, dtype=offset.dtype) * stride for size in (h, w))
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).repeat_interleave(n, dim=0)  # (2N, h, w)
    shape = offset.new_tensor(initial_shape(n)).t().reshape(2 * n, 1, 1)
    p = (offset + grid + shape).permute(0, 2, 3, 1).contiguous()  # (B, h, w, 2N)
    last = p.new_tensor([height - 1] * n + [width - 1] * n)  # (2N,)
    low = p.detach().floor().clamp(p.new_zeros(()), last)
    high = (p.detach().floor() + 1).clamp(p.new_zeros(()), last)
    inside = (p >= 0) & (p < last)  # elsewhere the gradient is zero, see docs/akconv.md
    p = torch.where(inside, p, p.detach().clamp(p.new_zeros(()), last))

    flat = x.contiguous().view(b, c, -1)  # (B, C, HW)
    samples = x.new_zeros(())
    for row, row_weight in ((low, 1 - (p - low)), (high, 1 - (high - p))):
        for column, column_weight in ((low, 1 - (p - low)), (high, 1 - (high - p))):
            cell = row[..., :n].long() * width + column[..., n:].long()  # (B, h, w, N)
            index = cell.unsqueeze(1).expand(-1, c, -1, -1, -1).contiguous()  # (B, C, h, w, N)
            value = flat.gather(2, index.view(b, c, -1)).view_as(index)
            share = (row_weight[..., :n] * column_weight[..., n:]).unsqueeze(1)  # (B, 1, h, w, N)
            samples = samples + value * share
    stacked = samples.permute(0, 1, 2, 4, 3).reshape(b, c, h * n, w)  # the N points of a cell below each other
    return F.conv2d(stacked, weight, stride=(n, 1))
