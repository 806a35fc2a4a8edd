"""The detection head: raw outputs of every level, and what they mean."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Detect(nn.Module):
    """One 1x1 convolution per level; decoding is a function of its own, without state.

    Letters: L levels, A anchors per cell, P predictions of all levels together.
    """

    stride: Tensor
    anchors: Tensor

    def __init__(self, nc: int, anchors: Sequence[Sequence[float]], ch: Sequence[int]) -> None:
        """Make a head with random weights; `set_stride` completes it.

        Args:
            nc: Number of classes.
            anchors: L rows w1, h1, w2, h2, ... in pixels at training resolution.
            ch: Input channels of the L levels.
        """
        super().__init__()
        self.nc = nc
        self.nl, self.na = len(anchors), len(anchors[0]) // 2
        self.no = nc + 5
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32).view(self.nl, self.na, 2))
        self.register_buffer("stride", torch.ones(self.nl), persistent=False)
        self.m = nn.ModuleList(nn.Conv2d(c, self.no * self.na, 1) for c in ch)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Raw outputs.

        Args:
            features: L maps (B, C, h, w).

        Returns:
            L tensors (B, A, h, w, 5 + nc) of logits: x, y, w, h, objectness, classes.
        """
        raw = []
        for conv, feature in zip(self.m, features, strict=True):
            b, _, h, w = feature.shape
            logits = conv(feature).view(b, self.na, self.no, h, w)
            raw.append(logits.permute(0, 1, 3, 4, 2).contiguous())
        return raw

    def decode(self, raw: list[Tensor]) -> Tensor:
        """Boxes and probabilities.

        Args:
            raw: What `forward` returned.

        Returns:
            (B, P, 5 + nc): cx, cy, w, h in pixels of the input, objectness, class probabilities; levels one after the
            other, within a level anchor, row, column.
        """
        return torch.cat([self._decode_level(i, logits) for i, logits in enumerate(raw)], dim=1)

    def _decode_level(self, level: int, logits: Tensor) -> Tensor:
        b, a, h, w, no = logits.shape
        stride, dtype = self.stride[level], logits.dtype
        rows = torch.arange(h, device=logits.device, dtype=dtype).view(h, 1).expand(h, w)
        columns = torch.arange(w, device=logits.device, dtype=dtype).expand(h, w)
        cell = torch.stack((columns, rows), dim=-1) - 0.5  # (h, w, 2)
        size = (self.anchors[level] * stride).to(dtype).view(1, a, 1, 1, 2)
        p = logits.sigmoid()
        xy = (p[..., 0:2] * 2 + cell) * stride.to(dtype)
        wh = (p[..., 2:4] * 2).square() * size
        return torch.cat((xy, wh, p[..., 4:]), dim=-1).view(b, a * h * w, no)

    @torch.no_grad()
    def set_stride(self, stride: Tensor) -> None:
        """Complete a fresh head: anchors to grid units in the order of the levels, biases to the prior.

        Args:
            stride: (L,) input pixels per cell.
        """
        self.stride.copy_(stride)
        area = self.anchors.prod(-1).mean(-1)  # (L,)
        if (area[-1] - area[0]).sign() * (stride[-1] - stride[0]).sign() < 0:
            self.anchors.copy_(self.anchors.flip(0))
        self.anchors.div_(stride.view(-1, 1, 1))
        for conv, s in zip(self.m, stride.tolist(), strict=True):
            bias = conv.bias.view(self.na, self.no)  # type: ignore[operator]
            bias[:, 4] += math.log(8 / (640 / s) ** 2)  # about 8 objects in a 640 px image
            bias[:, 5:] += math.log(0.6 / (self.nc - 0.99999))
