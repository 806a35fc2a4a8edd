"""Checkpoints of YOLOv5 and AKConv / LDConv: pickled modules, read as data without running any of their code.

Old files hold a whole `nn.Module`. Only its numbers are taken: the tensors under their state-dict names, the model
description (`yaml`), and the few attributes that change results (activations, BatchNorm settings, class names).
"""

import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from utils.archive import Archive, is_tensor_global
from utils.errors import UserError
from utils.unpickle import Instance, describe, globals_of, is_plain_global, plain, unpickle

logger = logging.getLogger(__name__)

Activation = tuple[str, float | None]
"""A class name of torch.nn and, for LeakyReLU, its negative slope."""

MAX_MODULES = 50_000
MAX_DEPTH = 32

_DETECTION_MODELS = {"Model", "DetectionModel"}
_OTHER_MODELS = {
    "SegmentationModel": "segmentation",
    "ClassificationModel": "classification",
    "Segment": "segmentation",
    "Classify": "classification",
}
_CONV_OWNERS = {"Conv", "DWConv"}
_AKCONV = {"AKConv", "LDConv"}
_CSP = {"BottleneckCSP"}
_LAYERS = {
    *_CONV_OWNERS,
    *_AKCONV,
    *_CSP,
    *("DWConvTranspose2d", "Bottleneck", "C3", "C3TR", "C3SPP", "C3Ghost", "C3x", "CrossConv", "GhostConv"),
    *("GhostBottleneck", "SPP", "SPPF", "Focus", "Contract", "Expand", "Concat", "MixConv2d", "Detect", "Proto"),
    *("TransformerLayer", "TransformerBlock", "BaseModel"),
}
_MODEL_CLASS = re.compile(r"models(\.\w+)+")
_TORCH_CLASS = re.compile(r"torch\.nn\.modules\.\w+\.\w+")
_OTHER_AKCONV_CLASS = re.compile(rf"ultralytics\.nn(\.\w+)*\.({'|'.join(sorted(_AKCONV))})")
_PLAIN_ACTIVATIONS = {"SiLU", "ReLU", "ReLU6", "Hardswish", "Mish", "Sigmoid", "Tanh", "Identity"}
_REBUILT_BUFFERS = {"anchor_grid", "grid"}
_BATCHNORM_DEFAULTS = (1e-3, 0.03)
MODEL_KEYS = ("depth_multiple", "width_multiple", "anchors", "backbone", "head")
"""What every model description has, besides `nc`."""


@dataclass(frozen=True)
class LegacyCheckpoint:
    """What an old checkpoint holds, as tensors and plain values.

    Attributes:
        state: The tensors under their state-dict names, floats as float32; of the averaged (EMA) weights if there are.
            Includes the `p_n` buffers of LDConv (its initial shape), not the caches of old Detect heads.
        cfg: The model description; its `nc` is that of the Detect layer.
        names: Class index to class name, complete for 0 .. nc - 1.
        stride: (L,) pixels per grid cell.
        nc: Number of classes.
        activations: Path of a module to the activation it owns, as (class name, negative slope or None).
        activation: The activation of the `Conv` blocks as in a model YAML, "nn.LeakyReLU(0.1)"; None if they own none.
        csp_activation: The same for the activation that BottleneckCSP itself owns.
        batchnorm_eps: eps of every BatchNorm.
        batchnorm_momentum: Momentum of every BatchNorm.
        fused: Whether the BatchNorms of the `Conv` blocks were already merged into their weights.
        epoch: Last epoch, from 0; -1 in a finished file, None if not recorded.
        best_fitness: Best fitness so far.
        opt: Command-line options of the training.
        hyp: Hyperparameters as trained with: gains and weight decay already scaled to the run.
        date: When it was written, ISO 8601.
    """

    state: dict[str, Tensor]
    cfg: dict[str, Any]
    names: dict[int, str]
    stride: Tensor
    nc: int
    activations: dict[str, Activation] = field(default_factory=dict)
    activation: str | None = None
    csp_activation: str | None = None
    batchnorm_eps: float = _BATCHNORM_DEFAULTS[0]
    batchnorm_momentum: float = _BATCHNORM_DEFAULTS[1]
    fused: bool = False
    epoch: int | None = None
    best_fitness: float | None = None
    opt: dict[str, Any] | None = None
    hyp: dict[str, Any] | None = None
    date: str | None = None


def is_legacy(path: str | Path) -> bool:
    """Whether a .pt file refers to more than plain tensors, as files with pickled modules do; loads nothing.

    Args:
        path: The file.

    Raises:
        UserError: If it is missing, damaged or no torch archive at all.
    """
    with Archive(Path(path)) as archive:
        try:
            names = globals_of(archive.pickle())
        except ValueError as error:
            raise UserError(f"{path}: its pickle is damaged ({error}); get the file again") from error
    return not all(is_tensor_global(name) or is_plain_global(name) for name in names)


def read_legacy(path: str | Path) -> LegacyCheckpoint:
    """Read a checkpoint of YOLOv5 (v2.0 or newer), AKConv or LDConv without running anything that is in it.

    Args:
        path: A .pt file with a pickled detection model.

    Returns:
        Its weights and description.

    Raises:
        UserError: If the file is missing, damaged, refers to anything but known layers, or is no detection model.
    """
    path = Path(path)
    with Archive(path) as archive:
        root = unpickle(archive.pickle(), _is_known, str(path))
        try:
            return _Reader(archive, _content(root, path)).read()
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error


def _is_known(name: str) -> bool:
    if is_tensor_global(name) or is_plain_global(name) or _TORCH_CLASS.fullmatch(name):
        return True
    if name == "models.experimental.C3":  # another block than today's C3, of v2.0 to v3.1
        return False
    layer = name.rpartition(".")[2]
    known = layer in _LAYERS or layer in _DETECTION_MODELS or layer in _OTHER_MODELS
    return bool(_OTHER_AKCONV_CLASS.fullmatch(name) or (_MODEL_CLASS.fullmatch(name) and known))


def _content(root: object, path: Path) -> dict[str, Any]:
    """The dictionary of a checkpoint; a model saved bare counts as a checkpoint of just that model."""
    if isinstance(root, Instance):
        return {"model": root}
    if type(root) is not dict or not {"model", "ema"} & root.keys():
        found = f"keys {', '.join(map(str, list(root)[:4]))}" if type(root) is dict else f"a {type(root).__name__}"
        raise UserError(f"{path}: holds no model (found {found}); expected a YOLOv5 checkpoint with a key 'model'")
    return root


class _Reader:
    """Takes one checkpoint apart; ValueErrors are the user's to read, `read_legacy` adds the file name."""

    def __init__(self, archive: Archive, content: dict[str, Any]) -> None:
        self._archive = archive
        self._content = content
        model = content.get("ema") if content.get("ema") is not None else content.get("model")
        if not isinstance(model, Instance):
            raise ValueError(
                f"'model' is a {type(model).__name__}, expected a pickled model; get a complete checkpoint"
            )
        self._model = model
        self._modules = dict(_walk(model))
        self._check_kind()

    def read(self) -> LegacyCheckpoint:
        detect_name = self._detect_name()
        detect = self._modules[detect_name]
        state = self._state()
        nc = self._nc(detect_name, state)
        activations = self._activations()
        eps, momentum = self._batchnorm()
        return LegacyCheckpoint(
            state=state,
            cfg=self._cfg(nc),
            names=self._names(nc),
            stride=self._stride(detect),
            nc=nc,
            activations=activations,
            activation=self._shared_activation(activations, _CONV_OWNERS),
            csp_activation=self._shared_activation(activations, _CSP),
            batchnorm_eps=eps,
            batchnorm_momentum=momentum,
            fused=self._is_fused(),
            epoch=_integer(self._content.get("epoch")),
            best_fitness=_first_number(plain(self._content.get("best_fitness"))),
            opt=self._options("opt", self._content.get("opt")),
            hyp=self._options("hyp", _attributes(self._model).get("hyp")),
            date=_text(self._content.get("date")),
        )

    def _check_kind(self) -> None:
        for name, module in self._modules.items():
            if kind := _OTHER_MODELS.get(module.class_name):
                raise ValueError(
                    f"a {kind} model ({name or 'model'} is {module.class_name}); expected a detection model"
                )
        if self._model.class_name not in _DETECTION_MODELS:
            raise ValueError(f"holds a {self._model.name}, expected a YOLOv5 detection model")

    def _detect_name(self) -> str:
        found = [name for name, module in self._modules.items() if module.class_name == "Detect"]
        if len(found) != 1:
            raise ValueError(f"{len(found)} Detect layers in the model, expected exactly one")
        return found[0]

    def _nc(self, detect_name: str, state: dict[str, Tensor]) -> int:
        """The number of classes, which its output convolutions must agree with."""
        nc = _attributes(self._modules[detect_name]).get("nc")
        anchors, weight = (state.get(_join(detect_name, key)) for key in ("anchors", "m.0.weight"))
        if anchors is None or weight is None or anchors.ndim != 3 or weight.ndim != 4:
            raise ValueError(f"{detect_name} (Detect) has no anchors or no output convolution; the file is damaged")
        if type(nc) is not int or nc < 1 or len(weight) != anchors.shape[1] * (nc + 5):
            raise ValueError(
                f"{detect_name} (Detect): nc is {describe(nc)}, which does not fit {anchors.shape[1]} anchors "
                f"and {len(weight)} output channels; expected channels = anchors x (nc + 5)"
            )
        return nc

    def _state(self) -> dict[str, Tensor]:
        state = {}
        for module_name, module in self._modules.items():
            own = _attributes(module)
            transient = own.get("_non_persistent_buffers_set")
            skipped = transient if type(transient) is set else set()
            if module.class_name == "Detect":
                skipped = skipped | _REBUILT_BUFFERS
            tensors = {**_mapping(own, "_parameters", module_name), **_mapping(own, "_buffers", module_name)}
            for name, record in tensors.items():
                if record is not None and name not in skipped:
                    state[_join(module_name, name)] = self._archive.tensor(record)
        return state

    def _cfg(self, nc: int) -> dict[str, Any]:
        cfg = plain(_attributes(self._model).get("yaml"))
        if not isinstance(cfg, dict):
            raise ValueError("the model carries no description (yaml); expected a checkpoint of YOLOv5 v2.0 or newer")
        if missing := [key for key in MODEL_KEYS if key not in cfg]:
            raise ValueError(f"the model description lacks {', '.join(missing)}; expected that of YOLOv5 v2.0 or newer")
        if not isinstance(cfg["head"], list):
            raise ValueError("head of the model description is no list of rows")
        for row in cfg["head"]:
            if not isinstance(row, list) or len(row) != 4:
                raise ValueError(f"head row {row!r}: expected [from, number, module, args]")
            source, _, module, _ = row
            if module in ("nn.Conv2d", "Conv2d") or (module == "Detect" and source == []):
                raise ValueError(
                    "the model description is in the dialect of YOLOv5 v1.0 (with rows for the output convolutions), "
                    "which is not supported; train again, or use weights of v2.0 or newer"
                )
        return {**cfg, "nc": nc}

    def _names(self, nc: int) -> dict[int, str]:
        names = plain(_attributes(self._model).get("names"))
        if isinstance(names, list | tuple):
            names = dict(enumerate(names))
        if not isinstance(names, dict):
            names = {}
        if sorted(map(str, names)) != sorted(map(str, range(nc))):
            logger.warning("%s: %d class names for %d classes", self._archive.path, len(names), nc)
        return {i: str(names.get(i, i)) for i in range(nc)}

    def _stride(self, detect: Instance) -> Tensor:
        for owner in (self._model, detect):
            if (record := _attributes(owner).get("stride")) is not None:
                stride = self._archive.tensor(record).float()
                if stride.ndim == 1 and len(stride) and bool((stride > 0).all()):
                    return stride.clone()
                raise ValueError(f"stride is {stride.tolist()}, expected one positive number per output level")
        raise ValueError("the model has no stride; expected a model that was built completely")

    def _activations(self) -> dict[str, Activation]:
        """The activation of every module that owns one, after checking those that are always SiLU."""
        found: dict[str, Activation] = {}
        for name, module in self._modules.items():
            own = _join(name, "conv.2" if module.class_name in _AKCONV else "act")
            if own not in self._modules:
                continue
            found[name] = _activation(self._modules[own], own)
            if module.class_name not in _CONV_OWNERS | _CSP and found[name][0] != "SiLU":
                raise ValueError(f"{own} in a {module.class_name} is {_expression(found[name])}, expected nn.SiLU()")
        return found

    def _shared_activation(self, activations: dict[str, Activation], owners: set[str]) -> str | None:
        """The one activation of all modules of these classes; Identity stands for `act=False` and does not count."""
        examples = {
            act: name
            for name, act in activations.items()
            if self._modules[name].class_name in owners and act[0] != "Identity"
        }
        if len(examples) > 1:
            shown = ", ".join(f"{_expression(act)} in {name}" for act, name in examples.items())
            raise ValueError(
                f"activations are mixed ({shown}); expected one for all {' / '.join(sorted(owners))} blocks"
            )
        return _expression(next(iter(examples))) if examples else None

    def _batchnorm(self) -> tuple[float, float]:
        found = set()
        for name, module in self._modules.items():
            if module.class_name == "BatchNorm2d":
                eps, momentum = (_attributes(module).get(key) for key in ("eps", "momentum"))
                if not (isinstance(eps, float) and isinstance(momentum, float) and 0 < eps < 1 and 0 < momentum < 1):
                    raise ValueError(
                        f"{name}: BatchNorm eps {describe(eps)} and momentum {describe(momentum)}, "
                        "expected numbers between 0 and 1"
                    )
                found.add((eps, momentum))
        if len(found) > 1:
            raise ValueError(f"BatchNorm layers differ in (eps, momentum): {sorted(found)}; expected the same in all")
        return next(iter(found), _BATCHNORM_DEFAULTS)

    def _is_fused(self) -> bool:
        merged = {
            name: _join(name, "bn") not in self._modules
            for name, module in self._modules.items()
            if module.class_name in _CONV_OWNERS
        }
        if len(set(merged.values())) > 1:
            raise ValueError("only some Conv blocks have their BatchNorm merged; expected all or none")
        return any(merged.values())

    def _options(self, key: str, value: object) -> dict[str, Any] | None:
        try:
            options = plain(value)
        except ValueError as error:  # of interest to a reader only, never a reason not to load the weights
            logger.warning("%s: %s is left out: %s", self._archive.path, key, error)
            return None
        return options if isinstance(options, dict) else None


def _walk(root: Instance) -> Iterator[tuple[str, Instance]]:
    """Every module below `root` with its dotted path, parents first, in the order of the file."""
    pending: list[tuple[str, Instance, int]] = [("", root, 0)]
    count = 0
    while pending:
        name, module, depth = pending.pop()
        count += 1
        if count > MAX_MODULES or depth > MAX_DEPTH:
            raise ValueError("the model has too many or too deeply nested modules; the file is damaged")
        yield name, module
        children = _mapping(_attributes(module), "_modules", name)
        for key, child in reversed(children.items()):
            if isinstance(child, Instance):
                pending.append((_join(name, key), child, depth + 1))
            elif child is not None:
                raise ValueError(f"{_join(name, key)}: expected a module, found {type(child).__name__}")


def _attributes(module: Instance) -> dict[str, Any]:
    return module.state if type(module.state) is dict else {}


def _mapping(attributes: dict[str, Any], key: str, owner: str) -> dict[str, Any]:
    content = attributes.get(key, {})
    if type(content) is not dict or not all(type(name) is str for name in content):
        raise ValueError(f"{owner or 'model'}: {key} is no mapping of names; the file is damaged")
    return content


def _join(owner: str, name: str) -> str:
    return f"{owner}.{name}" if owner else name


def _activation(module: Instance, name: str) -> Activation:
    kind = module.class_name
    known = sorted({*_PLAIN_ACTIVATIONS, "LeakyReLU"})
    if not _TORCH_CLASS.fullmatch(module.name) or kind not in known:
        raise ValueError(f"{name}: activation {module.name} is not known; known: {', '.join(known)}")
    if kind != "LeakyReLU":
        return kind, None
    slope = _attributes(module).get("negative_slope")
    if not isinstance(slope, int | float) or not math.isfinite(slope):
        raise ValueError(f"{name}: LeakyReLU with negative slope {describe(slope)}, expected a number")
    return kind, float(slope)


def _expression(activation: Activation) -> str:
    kind, slope = activation
    return f"nn.{kind}({'' if slope is None else slope})"


def _integer(value: object) -> int | None:
    return value if type(value) is int else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _first_number(value: Any) -> float | None:
    """A number, or the only one of a list: training stored its best fitness as an array of one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return float(value) if type(value) in (int, float) else None
