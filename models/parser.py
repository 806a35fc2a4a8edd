"""From the rows of a model file to modules, through a table of names; nothing in the file is ever evaluated."""

import ast
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from torch import nn

from models import layers
from models.akconv import AKConv
from models.head import Detect
from utils.errors import UserError

_SCALED: dict[str, Callable[..., nn.Module]] = {
    cls.__name__: cls
    for cls in (
        *(layers.Conv, layers.DWConv, layers.DWConvTranspose2d, layers.GhostConv, layers.Bottleneck),
        *(layers.GhostBottleneck, layers.SPP, layers.SPPF, layers.MixConv2d, layers.Focus, layers.CrossConv),
        *(layers.BottleneckCSP, layers.C3, layers.C3x, layers.C3TR, layers.C3SPP, layers.C3Ghost),
    )
} | {"AKConv": AKConv, "LDConv": AKConv, "nn.ConvTranspose2d": nn.ConvTranspose2d}
"""Built with (input channels, scaled output channels, further arguments)."""

_REPEATS_INSIDE = {"BottleneckCSP", "C3", "C3x", "C3TR", "C3Ghost"}
"""Take the number of repeats as an argument; others are repeated one after the other."""

_SHAPING: dict[str, Callable[..., nn.Module]] = {
    "Concat": layers.Concat,
    "Contract": layers.Contract,
    "Expand": layers.Expand,
    "Detect": Detect,
}
MODULE_NAMES = (*_SCALED, *_SHAPING, "nn.<name>")
_ACTIVATIONS = (
    *("SiLU", "LeakyReLU", "ReLU", "ReLU6", "Hardswish", "Mish", "GELU", "ELU", "CELU", "SELU", "Softplus", "Tanh"),
    *("Sigmoid", "Hardsigmoid", "Hardtanh", "Identity"),
)
_LARGEST_MULTIPLE = 16  # yolov5x has 1.33 and 1.25


@dataclass(frozen=True)
class LayerSpec:
    """One row of a model file, checked.

    Attributes:
        index: Position in the model, backbone and head counted together.
        sources: Layers it reads: -1 for the one before, otherwise an absolute index.
        number: Repeats, depth multiple applied.
        module: Name, as in the file.
        args: Positional arguments, literals.
        options: Keyword arguments, literals.
        several: Whether the row lists its sources, so that the layer takes a list.
    """

    index: int
    sources: tuple[int, ...]
    number: int
    module: str
    args: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    several: bool = False

    def __str__(self) -> str:
        return f"layer {self.index} ({self.module})"


def parse_rows(cfg: Mapping[str, Any]) -> list[LayerSpec]:
    """Check the rows of a model.

    Args:
        cfg: A complete model mapping.

    Raises:
        UserError: Naming the layer, what was found and what was expected.
    """
    depth = _number(cfg, "depth_multiple")
    names = {"nc": cfg["nc"], "anchors": cfg["anchors"]}
    for part in ("backbone", "head"):
        if not isinstance(cfg[part], list):
            raise UserError(f"{part}: expected a list of rows, found {cfg[part]!r}")
    rows = [*cfg["backbone"], *cfg["head"]]
    if not rows:
        raise UserError("the model has no layers")
    return [_parse_row(i, row, depth, names) for i, row in enumerate(rows)]


def _parse_row(index: int, row: Any, depth: float, names: Mapping[str, Any]) -> LayerSpec:
    match row:
        case [int() | list() as source, int(number), str(module), list(args)] if number >= 1:
            pass
        case _:
            raise UserError(f"layer {index}: expected [from, number >= 1, module, [arguments]], found {row!r}")
    listed = source if isinstance(source, list) else [source]
    sources = tuple(_source(index, value) for value in listed)
    if module not in _SCALED and module not in _SHAPING and not _torch_module(module):
        near = get_close_matches(module, MODULE_NAMES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else ""
        raise UserError(f"layer {index}: unknown module {module!r}; {hint} known: {', '.join(MODULE_NAMES)}")
    options = args[-1] if args and isinstance(args[-1], dict) else {}
    literals = tuple(_literal(value, names) for value in (args[:-1] if options else args))
    number = max(round(number * depth), 1) if number > 1 else number
    return LayerSpec(index, sources, number, module, literals, options, isinstance(source, list))


def _source(index: int, value: Any) -> int:
    first = -1 if index == 0 else -index
    if not isinstance(value, int) or not first <= value < max(index, 1):
        raise UserError(f"layer {index}: reads from {value!r}, expected -1 or the index of an earlier layer")
    return value if value in (-1,) or value >= 0 else index + value


def _literal(value: Any, names: Mapping[str, Any]) -> Any:
    """What a word in a row means: a name of the model, a literal, else the word itself."""
    if not isinstance(value, str):
        return value
    if value in names:
        return names[value]
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _torch_module(name: str) -> type[nn.Module] | None:
    cls = getattr(nn, name.removeprefix("nn."), None) if name.startswith("nn.") else None
    return cls if isinstance(cls, type) and issubclass(cls, nn.Module) else None


def _number(cfg: Mapping[str, Any], key: str) -> float:
    value = cfg[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LARGEST_MULTIPLE:
        raise UserError(f"{key}: expected a number above 0 and up to {_LARGEST_MULTIPLE}, found {value!r}")
    return value


def anchor_rows(anchors: Any, levels: int) -> list[list[float]]:
    """Anchors of every level, w1, h1, w2, h2, ... in pixels.

    An integer k means k anchors that are still to be found; their places are held by 0, 1, 2, ...

    Raises:
        UserError: If the rows are not numbers in pairs, or there is not one row per level.
    """
    if isinstance(anchors, int) and not isinstance(anchors, bool) and anchors >= 1:
        return [[float(v) for v in range(2 * anchors)] for _ in range(levels)]
    try:
        rows = [[float(v) for v in row] for row in anchors]
    except (TypeError, ValueError):
        rows = []
    sound = all(0 < side < math.inf for row in rows for side in row)
    if not sound or len(rows) != levels or not rows[0] or len(rows[0]) % 2 or len({len(row) for row in rows}) != 1:
        raise UserError(
            f"anchors: expected {levels} rows w1, h1, w2, h2, ... of one length, in pixels above 0, found {anchors!r}"
        )
    return rows


def build_layers(cfg: Mapping[str, Any], ch: int) -> tuple[nn.Sequential, list[LayerSpec]]:
    """Make the layers of a model, with random weights.

    Args:
        cfg: A complete model mapping.
        ch: Channels of the input image.

    Returns:
        The layers and the row behind each.

    Raises:
        UserError: Naming the layer that cannot be built.
    """
    specs = parse_rows(cfg)
    if specs[-1].module != "Detect":
        raise UserError(f"the last layer is {specs[-1].module}, expected Detect")
    builder = _Builder(cfg, ch, levels=len(specs[-1].sources))
    model = nn.Sequential(*(builder.build(spec) for spec in specs))
    layers.set_activation(model, activation(cfg.get("activation") or "nn.SiLU()"))
    return model, specs


class _Builder:
    """Builds layer after layer and remembers the channels of each output."""

    def __init__(self, cfg: Mapping[str, Any], ch: int, levels: int) -> None:
        self.anchors = anchor_rows(cfg["anchors"], levels)
        self.outputs = len(self.anchors[0]) // 2 * (cfg["nc"] + 5)
        self.width = _number(cfg, "width_multiple")
        self.divisor = cfg.get("channel_multiple") or 8
        self.image = ch
        self.channels: list[int] = []

    def build(self, spec: LayerSpec) -> nn.Module:
        try:
            layer, channels = self._build(spec)
        except (TypeError, ValueError, IndexError, ZeroDivisionError, RuntimeError) as error:
            arguments = [*spec.args, *([dict(spec.options)] if spec.options else [])]
            raise UserError(f"{spec}: cannot be built with arguments {arguments!r}: {error}; correct them") from error
        self.channels.append(channels)
        return layer

    def _build(self, spec: LayerSpec) -> tuple[nn.Module, int]:
        sources = [self.channels[s] if self.channels else self.image for s in spec.sources]
        channels = sources[0]
        if spec.module in _SCALED:
            wanted, *rest = spec.args
            # A width equal to the head's outputs is not scaled: so it is in published models.
            c2 = wanted if wanted == self.outputs else math.ceil(wanted * self.width / self.divisor) * self.divisor
            inside = spec.module in _REPEATS_INSIDE
            args = (channels, c2, spec.number, *rest) if inside else (channels, c2, *rest)
            return self._repeat(_SCALED[spec.module], args, spec, 1 if inside else spec.number), c2
        if spec.module == "Detect":
            return Detect(self._head_classes(spec), self.anchors, sources), channels
        if spec.module == "nn.BatchNorm2d":
            return nn.BatchNorm2d(channels), channels
        make = _SHAPING.get(spec.module) or _torch_module(spec.module)
        assert make is not None  # parse_rows knows only such names
        layer = self._repeat(make, spec.args, spec, spec.number)
        if spec.module == "Concat":
            channels = sum(sources)
        elif spec.module == "Contract":
            channels *= spec.args[0] ** 2
        elif spec.module == "Expand":
            channels //= spec.args[0] ** 2
        return layer, channels

    @staticmethod
    def _repeat(make: Callable[..., nn.Module], args: tuple[Any, ...], spec: LayerSpec, number: int) -> nn.Module:
        made = [make(*args, **spec.options) for _ in range(number)]
        return made[0] if number == 1 else nn.Sequential(*made)

    def _head_classes(self, spec: LayerSpec) -> int:
        nc = spec.args[0] if spec.args else None
        if not isinstance(nc, int) or nc < 1:
            raise UserError(f"{spec}: expected the arguments [nc, anchors], found {[*spec.args]!r}")
        return nc


def activation(text: str) -> nn.Module:
    """The activation module that a text such as "nn.LeakyReLU(0.1)" names; read as literals, never evaluated.

    Raises:
        UserError: If it is not nn.<name>(literal arguments).
    """
    problem = f"activation: expected for example nn.SiLU() or nn.LeakyReLU(0.1), found {text!r}"
    try:
        call = ast.parse(str(text), mode="eval").body
    except SyntaxError as error:
        raise UserError(problem) from error
    if not isinstance(call, ast.Call):
        raise UserError(problem)
    name = ast.unparse(call.func).removeprefix("torch.").removeprefix("nn.")
    if name not in _ACTIVATIONS:
        raise UserError(f"{problem}; known: {', '.join(_ACTIVATIONS)}")
    cls = getattr(nn, name)
    try:
        args = [ast.literal_eval(arg) for arg in call.args]
        return cls(*args, **{k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg})
    except (ValueError, TypeError) as error:
        raise UserError(f"{problem}; its arguments must be numbers or truth values that nn.{name} knows") from error
