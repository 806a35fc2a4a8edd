"""What a lowering reads from where, in memory as loops want it."""

from typing import NamedTuple

from torch import Tensor

from models.ops.taps import Border


class Sampling(NamedTuple):
    """All that decides on the samples; tensors are contiguous and of one type."""

    x: Tensor
    """(B, H, W, C) input."""
    offset: Tensor
    """(B, h, w, 2N) in input pixels, those of rows first."""
    start: Tensor
    """(2, N) starting points, rows before columns."""
    stride: int
    border: Border
