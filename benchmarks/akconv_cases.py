"""What bench_akconv compares: layers, inputs, providers."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import check_imgsz, elapsed
from benchmarks.published import published
from models import Model
from models.akconv import AKConv
from models.ops import Implementation, akconv2d
from models.ops.taps import output_size
from utils.errors import UserError

_LOWERINGS = tuple(name for name in get_args(Implementation) if name != "auto")
PROVIDERS = ("published", *_LOWERINGS, "auto", "layer", "conv")
"""The baseline, all implementations of the op, the op with the convolution that predicts its offsets ("auto"), and the
3x3 convolution in whose place an AKConv stands."""


@dataclass(frozen=True)
class Case:
    """One AKConv of a model, N points, B images, and offsets.

    Offsets are normally distributed: those of one point in all cells of an image around a common shift, with a standard
    deviation of `spread` pixels; the shifts, with one of `shift` pixels.
    """

    layer: str
    channels: int
    height: int
    width: int
    out: int
    stride: int
    n: int = 5
    batch: int = 2
    spread: float = 1.0
    shift: float = 0.0

    @property
    def cells(self) -> int:
        """Output cells of all images."""
        return self.batch * output_size(self.height, self.stride) * output_size(self.width, self.stride)


def layers_of(model: str, imgsz: int) -> list[Case]:
    """The AKConvs of a model with the shapes that they get; nothing is computed, only shapes are passed on.

    Args:
        model: Name of a base model file such as yolov5n.
        imgsz: Side of the image, pixels.

    Raises:
        UserError: If there is no such model, or it cannot take such images.
    """
    cases = []

    def remember(module: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(module, AKConv)
        _, channels, height, width = inputs[0].shape
        out, _, n, _ = cast(Tensor, module.conv[0].weight).shape
        cases.append(Case(f"{model}.{names[module]}", channels, height, width, out, module.stride, n))

    model = model.removesuffix(".yaml")
    net = Model(f"{model}-ak5.yaml").eval()
    check_imgsz(imgsz, net.stride, model)
    net.to("meta")
    names = {module: name.removeprefix("model.") for name, module in net.named_modules() if isinstance(module, AKConv)}
    for module in names:
        module.register_forward_pre_hook(remember)
    net(torch.empty(1, 3, imgsz, imgsz, device="meta"))
    return cases


@dataclass(frozen=True)
class Call:
    """One provider on one case."""

    compute: Callable[..., Tensor]
    leaves: tuple[Tensor, ...]
    grad: Tensor

    @torch.no_grad()
    def forward(self) -> Tensor:
        """The output, as in inference."""
        return self.compute(*self.leaves)

    def total(self) -> tuple[Tensor, ...]:
        """The output, and the gradients of the leaves: a forward and a backward pass."""
        out = self.compute(*self.leaves)
        return out, *torch.autograd.grad(out, self.leaves, self.grad)


class Inputs(NamedTuple):
    """What providers get; `conv` is a 3x3 weight, `predictor` and `bias` predict offsets."""

    x: Tensor
    offset: Tensor
    weight: Tensor
    conv: Tensor
    predictor: Tensor
    bias: Tensor
    grad: Tensor


@functools.lru_cache(maxsize=2)
def make_inputs(case: Case, device: torch.device, dtype: torch.dtype, layout: torch.memory_format) -> Inputs:
    """Random inputs, the same for all providers.

    Offsets are odd multiples of 1/128 pixel: positions and weights are then exact in float32, and no position is at an
    integer, where the derivative jumps.
    """
    rng = torch.Generator().manual_seed(0)

    def leaf(*shape: int, scale: float = 1.0) -> Tensor:
        return as_leaf(torch.randn(shape, generator=rng) * scale)

    def as_leaf(t: Tensor) -> Tensor:
        return t.to(device, dtype, memory_format=layout).requires_grad_()

    b, c, n, o = case.batch, case.channels, case.n, case.out
    h, w = (output_size(side, case.stride) for side in (case.height, case.width))
    offset = case.shift * torch.randn((b, 2 * n, 1, 1), generator=rng)
    offset = offset + case.spread * torch.randn((b, 2 * n, h, w), generator=rng)
    return Inputs(
        x=leaf(b, c, case.height, case.width),
        offset=as_leaf((64 * offset).round() / 64 + 1 / 128),
        weight=leaf(o, c, n, 1, scale=(n * c) ** -0.5),
        conv=leaf(o, c, 3, 3, scale=(9 * c) ** -0.5),
        predictor=leaf(2 * n, c, 3, 3, scale=case.spread * (9 * c) ** -0.5),
        bias=torch.zeros(2 * n, device=device, dtype=dtype, requires_grad=True),
        grad=leaf(b, o, h, w).detach(),
    )


def prepare(provider: str, case: Case, device: torch.device, dtype: torch.dtype = torch.float32) -> Call:
    """A provider with its inputs; memory is channels-last, except for `published`."""
    layout = torch.contiguous_format if provider == "published" else torch.channels_last
    x, offset, weight, conv, predictor, bias, grad = make_inputs(case, device, dtype, layout)
    s = case.stride
    if provider == "conv":
        return Call(lambda x, conv: F.conv2d(x, conv, None, s, 1), (x, conv), grad)
    if provider == "layer":
        return Call(
            lambda x, weight, predictor, bias: akconv2d(x, F.conv2d(x, predictor, bias, s, 1), weight, stride=s),
            (x, weight, predictor, bias),
            grad,
        )
    op = published if provider == "published" else functools.partial(akconv2d, impl=cast(Implementation, provider))
    return Call(lambda *leaves: op(*leaves, stride=s), (x, offset, weight), grad)


def available(names: tuple[str, ...], device: torch.device) -> dict[str, float]:
    """The providers that work here, and the seconds of a first tiny call; for the others the reason is printed.

    Raises:
        UserError: If a name is not known.
    """
    if unknown := set(names) - set(PROVIDERS):
        raise UserError(f"--providers {' '.join(sorted(unknown))}: known are {' '.join(PROVIDERS)}")
    found = {}
    for name in names:
        try:
            if name == "triton" and device.type != "cuda":
                raise RuntimeError("it needs a GPU; a figure of Triton's interpreter would say nothing")
            seconds = elapsed(lambda name=name: prepare(name, Case("", 2, 5, 4, 3, 2), device).total(), device)  # type: ignore[misc]
        except (ImportError, RuntimeError, ValueError) as error:
            print(f"{name}: left out, {error}")
        else:
            found[name] = seconds
    return found


def check(providers: Iterable[str], case: Case, device: torch.device) -> None:
    """Compare outputs and gradients with the reference in float64.

    An error may be twice that of the reference in float32, or 1e-5 of the largest value.

    Raises:
        UserError: If a provider is wrong.
    """
    truth = prepare("reference", case, device, torch.float64).total()
    plain = prepare("reference", case, device).total()
    for provider in set(providers) - {"conv", "layer"}:
        found = prepare(provider, case, device).total()
        for name, t, p, f in zip(
            ("output", "gradient of x", "gradient of offset", "gradient of weight"), truth, plain, found, strict=True
        ):
            error, allowed = (f - t).abs().max(), 2 * (p - t).abs().max() + 1e-5 * t.abs().max()
            if not error <= allowed:
                raise UserError(f"{provider} at {case}: error of the {name} is {error:.1e}, allowed {allowed:.1e}")
