"""Where and how strongly each point reads the input: positions, border rules, bilinear weights.

A point at a real-valued position reads four cells. Along each axis it reads two, its *taps*; the four weights are the
products of the two pairs. The border rule only acts along an axis, so it is written down once, here.
"""

from typing import Literal

import torch
from torch import Tensor

from models.ops.shapes import Shape

Border = Literal["published", "clamp", "zeros"]
BORDERS: tuple[Border, ...] = ("published", "clamp", "zeros")


def output_size(size: int, stride: int) -> int:
    """Cells along one axis of the output, of `size` cells of the input."""
    return (size - 1) // stride + 1


def positions(offset: Tensor, stride: int, shape: Shape) -> tuple[Tensor, Tensor]:
    """Positions of all points: output cell times stride, plus initial shape, plus offset.

    Args:
        offset: (B, 2N, h, w) in input pixels; the first N channels move rows, the others columns.
        stride: Input pixels per output cell.
        shape: N (row, column) points.

    Returns:
        Rows and columns, each (B, h, w, N), in at least float32: coordinates of a large map need the bits.
    """
    offset = offset.to(torch.promote_types(offset.dtype, torch.float32)).permute(0, 2, 3, 1)  # (B, h, w, 2N)
    _, h, w, _ = offset.shape
    start = offset.new_tensor(shape)  # (N, 2)
    rows = torch.arange(h, device=offset.device).mul(stride).view(h, 1, 1) + start[:, 0]  # (h, 1, N)
    columns = torch.arange(w, device=offset.device).mul(stride).view(1, w, 1) + start[:, 1]  # (1, w, N)
    n = len(shape)
    return offset[..., :n] + rows, offset[..., n:] + columns


def confine(p: Tensor, size: int, border: Border) -> tuple[Tensor, Tensor]:
    """Bring coordinates into the range in which they are sampled.

    The derivative is written out instead of left to `torch.clamp`, whose gradient at its bounds differs between
    versions of torch: it is 1 for 0 <= p < size - 1 ("zeros": -1 <= p < size) and 0 elsewhere.

    Args:
        p: Coordinates along one axis, any shape.
        size: Cells along that axis.
        border: Border rule.

    Returns:
        The coordinate at which the sample is taken, and whether p was inside.
    """
    low, high = (-1, size) if border == "zeros" else (0, size - 1)
    inside = (p >= low) & (p < high)
    return torch.where(inside, p, p.detach().clamp(low, high)), inside


def axis_taps(p: Tensor, size: int, border: Border) -> tuple[Tensor, Tensor]:
    """The two cells a coordinate reads along one axis, and their weights.

    Args:
        p: (...) coordinates.
        size: Cells along that axis, at least 1.
        border: "published": clamped, and doubled where p < 0 or p >= size - 1; "clamp": clamped; "zeros": cells
            outside the map count as zero.

    Returns:
        Cells (..., 2) int64 within [0, size), also where p is NaN; weights (..., 2), differentiable in p.
    """
    q, inside = confine(p, size, border)
    cell = q.detach().floor()
    high = q - cell
    weight = torch.stack((1 - high, high), dim=-1)  # (..., 2)
    first = torch.nan_to_num(cell).long()
    cells = torch.stack((first, first + 1), dim=-1)  # (..., 2)
    if border == "published":
        weight = weight * torch.where(inside, 1.0, 2.0)[..., None].to(weight.dtype)
    elif border == "zeros":
        weight = weight * ((cells >= 0) & (cells < size))
    return cells.clamp(0, size - 1), weight
