"""AKConv as a layer: it owns the parameters, `models.ops` does the arithmetic."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from models.ops import BORDERS, Border, initial_shape, unchecked
from models.ops.shapes import Shape


class AKConv(nn.Module):
    """Alterable kernel convolution: N sampled points, moved by offsets predicted from the input, BatchNorm, SiLU.

    Source: https://arxiv.org/abs/2311.11587 (journal name LDConv). State-dict names are those of the published code.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        num_param: int,
        stride: int = 1,
        bias: bool | None = None,
        *,
        shape: str | Sequence[Sequence[float]] | None = None,
        border: Border = "published",
    ) -> None:
        """Make a layer with random weights.

        Args:
            c1: Input channels.
            c2: Output channels.
            num_param: Number of points N, at least 1.
            stride: Input pixels per output cell.
            bias: Whether the product has a bias of its own; None means no.
            shape: Starting points, a name or a list of (row, column), see `models.ops.initial_shape`.
            border: Border rule, see `models.ops.akconv2d`.

        Raises:
            ValueError: If the shape or border is not known, or a number is not whole or below 1.
        """
        super().__init__()
        for name, value in {"c1": c1, "c2": c2, "num_param": num_param, "stride": stride}.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"AKConv: {name} is {value!r}, expected a whole number of at least 1")
        if border not in BORDERS:
            raise ValueError(f"unknown border rule {border!r}; known: {', '.join(BORDERS)}")
        self.num_param = num_param
        self.stride = stride
        self.border: Border = border
        self.shape: Shape = initial_shape(num_param, shape)
        self.p_conv = nn.Conv2d(c1, 2 * num_param, 3, stride=stride, padding=1)
        nn.init.zeros_(self.p_conv.weight)
        # A Conv2d only as the owner of weight and bias, under the published name: it is never called.
        sampled = nn.Conv2d(c1, c2, (num_param, 1), stride=(num_param, 1), bias=bool(bias))
        self.conv = nn.Sequential(sampled, nn.BatchNorm2d(c2), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        """Sample, combine, normalise, activate.

        Args:
            x: (B, c1, H, W).

        Returns:
            (B, c2, h, w) with h = (H - 1) // stride + 1.

        Raises:
            ValueError: If x has no batch dimension: p_conv would take it, the op cannot.
        """
        if x.ndim != 4:
            raise ValueError(f"AKConv takes (B, C, H, W), got {tuple(x.shape)}; add a batch dimension by x[None]")
        owner, norm, activation = cast("tuple[nn.Conv2d, nn.Module, nn.Module]", self.conv)
        out = unchecked(x, self.p_conv(x), owner.weight, owner.bias, self.stride, self.shape, self.border)
        return activation(norm(out))

    @torch.no_grad()
    def fuse(self) -> None:
        """Fold the BatchNorm into weight and bias, for inference; does nothing the second time."""
        owner, norm, activation = cast("tuple[nn.Conv2d, nn.Module, nn.Module]", self.conv)
        if isinstance(norm, nn.BatchNorm2d):
            owner.weight, owner.bias = folded(owner.weight, owner.bias, norm)
            self.conv[1] = nn.Identity()
            overwrite_input(activation)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Take the initial shape from a checkpoint of the later LDConv code, which stores it as the buffer p_n."""
        p_n = state_dict.pop(f"{prefix}p_n", None)
        if p_n is not None:
            rows, columns = p_n.flatten().float().view(2, -1).tolist()
            self.shape = initial_shape(self.num_param, list(zip(rows, columns, strict=True)))
        super()._load_from_state_dict(state_dict, prefix, *args)


LDConv = AKConv


def folded(weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias of a convolution with the BatchNorm that follows it folded in.

    Args:
        weight: (O, ...).
        bias: (O,) or None.
        norm: BatchNorm over O channels, with running statistics.

    Returns:
        Weight and bias as parameters without gradients.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a BatchNorm without running statistics cannot be folded")
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    start = torch.zeros_like(norm.running_mean) if bias is None else bias
    new_weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    new_bias = norm.bias + (start - norm.running_mean) * scale
    return nn.Parameter(new_weight.detach(), False), nn.Parameter(new_bias.detach(), False)


def overwrite_input(activation: nn.Module) -> None:
    """Let an activation that can work in place do so: behind a folded convolution nobody else reads its input.

    Activations are memory traffic alone; in place yolov5n predicts one image in seven eighths of the time.
    """
    if hasattr(activation, "inplace"):
        setattr(activation, "inplace", True)  # noqa: B010 - mypy takes it for a submodule
