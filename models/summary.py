"""What a model consists of and costs: the layer table, parameters and GFLOPs."""

import copy
from dataclasses import dataclass
from typing import Any, cast

import thop
import torch
from torch import Tensor, nn

from models.akconv import AKConv
from models.model import Model


@dataclass(frozen=True)
class Cost:
    """Size and cost of a model.

    Attributes:
        layers: Modules without children; a shared one counts once, one that does nothing not at all.
        parameters: Trainable and frozen numbers, without BatchNorm statistics.
        gflops: 1e-9 x 2 x multiply-accumulates for one square image. Interpolation inside AKConv is not counted, as
            published.
    """

    layers: int
    parameters: int
    gflops: float


def cost(model: Model, imgsz: int = 640, *, fused: bool = False) -> Cost:
    """Count a model's layers, parameters and operations.

    Args:
        model: Not modified.
        imgsz: Side of the image in pixels.
        fused: Count after folding BatchNorm into Conv, but not inside AKConv: the rule of the published tables.
    """
    # Counting only needs shapes: on the meta device nothing is computed.
    counted = copy.deepcopy(model).eval().to("meta")
    if fused:
        counted.fuse(akconv=False)
    leaves = sum(not any(m.children()) and not isinstance(m, nn.Identity) for m in counted.modules())
    parameters = sum(p.numel() for p in counted.parameters())
    image = torch.empty(1, model.cfg["ch"], imgsz, imgsz, device="meta")
    macs, _ = thop.profile(counted, inputs=(image,), custom_ops=_RULES, verbose=False)
    return Cost(leaves, parameters, 2e-9 * macs)


def _add(module: nn.Module, macs: int) -> None:
    cast(Tensor, module.total_ops).add_(macs)  # the buffer that thop hangs on every module


def _count_akconv(module: AKConv, inputs: tuple[Tensor], output: Tensor) -> None:
    """Offsets, product and BatchNorm; the BatchNorm also when it is folded, as published."""
    c1, c2, n = inputs[0].shape[1], output.shape[1], module.num_param
    cells = output[0, 0].numel() * len(output)
    _add(module, cells * (n * c1 * (c2 + 18) + 4 * c2))


def _count_nothing(module: nn.Module, inputs: Any, output: Any) -> None:
    """Copies and comparisons, which the published figures do not count; thop would."""


def _count_transposed(module: nn.ConvTranspose2d, inputs: tuple[Tensor], output: Tensor) -> None:
    """Every input value meets the kernel once."""
    _add(module, inputs[0].numel() * module.weight[0].numel())


def _count_attention(module: nn.MultiheadAttention, inputs: tuple[Tensor, ...], output: Any) -> None:
    """Four projections, two products and the softmax over (tokens, images, channels)."""
    tokens, images, channels = inputs[0].shape
    projections = images * (4 * tokens * channels**2 + 2 * tokens**2 * channels)
    softmax = images * module.num_heads * tokens * (3 * tokens - 1)
    _add(module, projections + softmax)


_RULES = {
    AKConv: _count_akconv,
    nn.Upsample: _count_nothing,
    nn.ConvTranspose2d: _count_transposed,
    nn.MultiheadAttention: _count_attention,
}


def layer_table(model: Model) -> str:
    """The layers of a model as text: index, sources, repeats, parameters, module, arguments."""
    lines = [f"{'':>3}{'from':>18}{'n':>3}{'params':>10}  {'module':<20}arguments"]
    for spec, layer in zip(model.specs, model.model, strict=True):
        parameters = sum(p.numel() for p in layer.parameters())
        sources = ",".join(map(str, spec.sources))
        args = ", ".join([*map(str, spec.args), *(f"{k}={v}" for k, v in spec.options.items())])
        lines.append(f"{spec.index:>3}{sources:>18}{spec.number:>3}{parameters:>10}  {spec.module:<20}{args}")
    return "\n".join(lines)


def cost_line(name: str, counted: Cost) -> str:
    """One line for the log."""
    return f"{name}: {counted.layers} layers, {counted.parameters} parameters, {counted.gflops:.2f} GFLOPs"
