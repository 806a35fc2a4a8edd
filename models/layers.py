"""Building blocks of YOLOv5 models; attribute names are state-dict names of published checkpoints and stay as they are.

Every block maps (B, C, H, W) to (B, C', H', W'). In constructors c1 and c2 are input and output channels, n the number
of inner blocks, e the ratio of hidden to output channels, k, s, p, g, d kernel, stride, padding, groups and dilation.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.akconv import folded, overwrite_input

Kernel = int | tuple[int, int]


def same_padding(k: Kernel, d: int = 1) -> Kernel:
    """Padding with which a stride-1 convolution keeps the size, for kernel k and dilation d."""
    if isinstance(k, int):
        return (d * (k - 1) + 1) // 2
    return (d * (k[0] - 1) + 1) // 2, (d * (k[1] - 1) + 1) // 2


class Conv(nn.Module):
    """Convolution without bias, BatchNorm, activation.

    `act` is True for the model's own activation (see `set_activation`), a module for that one, anything else for none.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: Kernel = 1,
        s: Kernel = 1,
        p: Kernel | None = None,
        g: int = 1,
        d: int = 1,
        act: bool | nn.Module = True,
    ) -> None:
        super().__init__()
        padding = same_padding(k, d) if p is None else p
        self.conv = nn.Conv2d(c1, c2, kernel_size=k, stride=s, padding=padding, dilation=d, groups=g, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(c2)
        self.follows_model = act is True
        self.act = nn.SiLU() if self.follows_model else (act if isinstance(act, nn.Module) else nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise, activate."""
        return self.act(self.bn(self.conv(x)))

    @torch.no_grad()
    def fuse(self) -> None:
        """Fold the BatchNorm into the convolution, for inference; does nothing the second time."""
        if isinstance(self.bn, nn.BatchNorm2d):
            self.conv.weight, self.conv.bias = folded(self.conv.weight, self.conv.bias, self.bn)
            self.bn = nn.Identity()
            overwrite_input(self.act)


class DWConv(Conv):
    """Depth-wise `Conv`: as many groups as input and output channels allow."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, d: int = 1, act: bool | nn.Module = True) -> None:
        super().__init__(c1, c2, k, s, g=math.gcd(c1, c2), d=d, act=act)


class DWConvTranspose2d(nn.ConvTranspose2d):
    """Depth-wise transposed convolution with bias; p1 pads the input, p2 the output."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p1: int = 0, p2: int = 0) -> None:
        super().__init__(c1, c2, k, stride=s, padding=p1, output_padding=p2, groups=math.gcd(c1, c2))


class Bottleneck(nn.Module):
    """A 1x1 and a 3x3 `Conv`, with a residual connection if shapes allow and `shortcut` asks for it."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self._set(Conv(c1, hidden), Conv(hidden, c2, k=3, g=g), shortcut and c1 == c2)

    def _set(self, first: Conv, second: Conv, add: bool) -> None:
        self.cv1, self.cv2, self.add = first, second, add

    def forward(self, x: Tensor) -> Tensor:
        """Transform, and add the input if residual."""
        out = self.cv2(self.cv1(x))
        return x + out if self.add else out


class CrossConv(Bottleneck):
    """A k x k kernel as a (1, k) and a (k, 1) `Conv`, residual like `Bottleneck`."""

    def __init__(
        self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1, e: float = 1.0, shortcut: bool = False
    ) -> None:
        nn.Module.__init__(self)
        hidden = int(c2 * e)
        first, second = Conv(c1, hidden, k=(1, k), s=(1, s)), Conv(hidden, c2, k=(k, 1), s=(s, 1), g=g)
        self._set(first, second, shortcut and c1 == c2)


class C3(nn.Module):
    """Cross-stage block with three 1x1 `Conv`: one path through n inner blocks, one around them.

    Subclasses say what the inner blocks are by overriding `inner`.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1, self.cv2, self.cv3 = Conv(c1, hidden), Conv(c1, hidden), Conv(2 * hidden, c2)
        self.m = self.inner(hidden, n, shortcut, g)

    def inner(self, c: int, n: int, shortcut: bool, g: int) -> nn.Module:
        """The n inner blocks, from c to c channels."""
        return nn.Sequential(*(Bottleneck(c, c, shortcut, g, e=1.0) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        """Join both paths."""
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), dim=1))


class C3x(C3):
    """`C3` with `CrossConv` inside."""

    def inner(self, c: int, n: int, shortcut: bool, g: int) -> nn.Module:
        """The n inner blocks, from c to c channels."""
        return nn.Sequential(*(CrossConv(c, c, 3, 1, g, 1.0, shortcut) for _ in range(n)))


class C3TR(C3):
    """`C3` with a transformer of n layers inside."""

    def inner(self, c: int, n: int, shortcut: bool, g: int) -> nn.Module:
        """The n inner blocks, from c to c channels."""
        return TransformerBlock(c, c, heads=4, layers=n)


class C3Ghost(C3):
    """`C3` with `GhostBottleneck` inside."""

    def inner(self, c: int, n: int, shortcut: bool, g: int) -> nn.Module:
        """The n inner blocks, from c to c channels."""
        return nn.Sequential(*(GhostBottleneck(c, c) for _ in range(n)))


class C3SPP(C3):
    """`C3` with spatial pyramid pooling inside."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: Sequence[int] = (5, 9, 13),
        n: int = 1,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
    ) -> None:
        self.kernels = tuple(k)
        super().__init__(c1, c2, n, shortcut, g, e)

    def inner(self, c: int, n: int, shortcut: bool, g: int) -> nn.Module:
        """The n inner blocks, from c to c channels."""
        return SPP(c, c, self.kernels)


class BottleneckCSP(nn.Module):
    """Cross-stage partial block (https://arxiv.org/abs/1911.11929), the predecessor of `C3`."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1, self.cv4 = Conv(c1, hidden), Conv(2 * hidden, c2)
        self.cv2, self.cv3 = (nn.Conv2d(c, hidden, 1, bias=False) for c in (c1, hidden))
        self.bn = nn.BatchNorm2d(2 * hidden)
        self.act: nn.Module = nn.SiLU()  # whatever the model's activation
        self.m = nn.Sequential(*(Bottleneck(hidden, hidden, shortcut, g, e=1.0) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        """Join both paths, normalise, transform."""
        joined = torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), dim=1)
        return self.cv4(self.act(self.bn(joined)))


class GhostConv(nn.Module):
    """Half of the channels from a convolution, the other half from a cheap depth-wise one on them."""

    def __init__(
        self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1, act: bool | nn.Module = True
    ) -> None:  # https://arxiv.org/abs/1911.11907
        super().__init__()
        half = c2 // 2
        self.cv1, self.cv2 = Conv(c1, half, k, s, g=g, act=act), Conv(half, half, k=5, g=half, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """Both halves, (B, 2 * (c2 // 2), H', W')."""
        primary = self.cv1(x)
        return torch.cat((primary, self.cv2(primary)), dim=1)


class GhostBottleneck(nn.Module):
    """Two `GhostConv` with a residual connection; stride 2 adds depth-wise convolutions to both paths."""

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1) -> None:
        super().__init__()
        half = c2 // 2
        reduces = s == 2
        middle = DWConv(half, half, k, s, act=False) if reduces else nn.Identity()
        self.conv = nn.Sequential(GhostConv(c1, half), middle, GhostConv(half, c2, act=False))
        around = (DWConv(c1, c1, k, s, act=False), Conv(c1, c2, act=False)) if reduces else ()
        self.shortcut = nn.Sequential(*around)

    def forward(self, x: Tensor) -> Tensor:
        """Sum of both paths."""
        return self.shortcut(x) + self.conv(x)


class SPP(nn.Module):
    """Spatial pyramid pooling (https://arxiv.org/abs/1406.4729): maxima over windows of several sizes, side by side."""

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (5, 9, 13)) -> None:
        super().__init__()
        hidden = c1 // 2
        self.m = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in k)
        self.cv1, self.cv2 = Conv(c1, hidden), Conv(hidden * (1 + len(k)), c2)

    def forward(self, x: Tensor) -> Tensor:
        """Pool and join."""
        y = self.cv1(x)
        return self.cv2(torch.cat([y, *(pool(y) for pool in self.m)], dim=1))


class SPPF(nn.Module):
    """`SPP` with one small window applied three times, which gives the windows k, 2k - 1 and 3k - 2."""

    def __init__(self, c1: int, c2: int, k: int = 5) -> None:
        super().__init__()
        hidden = c1 // 2
        self.cv1, self.cv2 = Conv(c1, hidden), Conv(hidden * 4, c2)
        self.m = nn.MaxPool2d(k, stride=1, padding=k // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Pool repeatedly and join."""
        levels = [self.cv1(x)]
        for _ in range(3):
            levels.append(self.m(levels[-1]))
        return self.cv2(torch.cat(levels, dim=1))


class Focus(nn.Module):
    """Every second pixel of both axes into channels (factor 4), then a `Conv`; the stem of early models."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 1,
        s: int = 1,
        p: int | None = None,
        g: int = 1,
        act: bool | nn.Module = True,
    ) -> None:
        super().__init__()
        self.conv = Conv(4 * c1, c2, k, s, p, g, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """Phases in the order of published weights: columns outside, rows inside."""
        phases = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.conv(torch.cat(phases, dim=1))


class Contract(nn.Module):
    """Blocks of gain x gain pixels into channels; the sub-pixel index is the slower part of the new channel."""

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C * gain ** 2, H / gain, W / gain)."""
        b, c, h, w = x.shape
        g = self.gain
        cells = x.view(b, c, h // g, g, w // g, g)
        return cells.permute(0, 3, 5, 1, 2, 4).reshape(b, g * g * c, h // g, w // g)


class Expand(nn.Module):
    """Channels into blocks of gain x gain pixels, the inverse of `Contract`."""

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C / gain ** 2, H * gain, W * gain)."""
        b, c, h, w = x.shape
        g = self.gain
        cells = x.view(b, g, g, c // g**2, h, w)
        return cells.permute(0, 3, 4, 1, 5, 2).reshape(b, c // g**2, h * g, w * g)


class Concat(nn.Module):
    """Several layers' outputs, joined along one dimension."""

    def __init__(self, dimension: int = 1) -> None:
        super().__init__()
        self.d = dimension

    def forward(self, x: list[Tensor]) -> Tensor:
        """Join."""
        return torch.cat(x, dim=self.d)


class MixConv2d(nn.Module):
    """Kernels of several sizes side by side (https://arxiv.org/abs/1907.09595), equal in channels or in parameters."""

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (1, 3), s: int = 1, equal_ch: bool = True) -> None:
        super().__init__()
        shares = _equal_channels(c2, len(k)) if equal_ch else _equal_parameters(c2, k)
        self.m = nn.ModuleList(
            nn.Conv2d(c1, c, size, stride=s, padding=size // 2, groups=math.gcd(c1, c), bias=False)
            for c, size in zip(shares, k, strict=True)
        )
        self.bn, self.act = nn.BatchNorm2d(c2), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with every kernel, join, normalise, activate."""
        return self.act(self.bn(torch.cat([conv(x) for conv in self.m], dim=1)))


def _equal_channels(channels: int, kernels: int) -> list[int]:
    group = torch.linspace(0, kernels - 1e-6, channels).floor().long()
    return torch.bincount(group, minlength=kernels).tolist()


def _equal_parameters(channels: int, k: Sequence[int]) -> list[int]:
    """Least-squares shares with equal k**2 * share (each kernel against the next, cyclically) and the given sum."""
    area = torch.tensor([float(size) ** 2 for size in k], dtype=torch.float64).diag()
    equations = torch.cat((torch.ones(1, len(k), dtype=torch.float64), area - area.roll(-1, dims=0)))
    wanted = torch.zeros(len(k) + 1, 1, dtype=torch.float64)
    wanted[0] = channels
    shares = torch.linalg.lstsq(equations, wanted, driver="gelsd").solution.flatten()
    return [round(share) for share in shares.tolist()]


class TransformerLayer(nn.Module):
    """Self-attention and two linear maps, both residual; without normalisation or non-linearity."""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(c, c, bias=False) for _ in range(3))
        self.ma = nn.MultiheadAttention(embed_dim=c, num_heads=heads)
        self.fc1, self.fc2 = (nn.Linear(c, c, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(HW, B, C) to the same."""
        attended, _ = self.ma(self.q(x), self.k(x), self.v(x), need_weights=False)
        x = attended + x
        return self.fc2(self.fc1(x)) + x


class TransformerBlock(nn.Module):
    """Transformer layers over the cells of a map, with a learned linear position term."""

    def __init__(self, c1: int, c2: int, heads: int, layers: int) -> None:
        super().__init__()
        self.conv = Conv(c1, c2) if c1 != c2 else None
        self.linear = nn.Linear(c2, c2)
        self.tr = nn.Sequential(*(TransformerLayer(c2, heads) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        """Attend over all cells."""
        x = x if self.conv is None else self.conv(x)
        tokens = x.flatten(2).permute(2, 0, 1)  # (HW, B, C)
        return self.tr(tokens + self.linear(tokens)).permute(1, 2, 0).reshape(x.shape)


def set_activation(layers: nn.Module, activation: nn.Module) -> None:
    """Make `activation` the one of every `Conv` below `layers` that follows its model; without state, it is shared."""
    for module in layers.modules():
        if isinstance(module, Conv) and module.follows_model:
            module.act = activation
