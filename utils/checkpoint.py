"""Checkpoints: a plain dictionary of tensors and literals, written whole or not at all, read without running anything.

Format 1, a torch archive that `torch.load(..., weights_only=True)` reads:

    format    "yolov5-akconv"
    version   1
    cfg       the model description, `nc` and `anchors` as built
    names     class index -> class name
    stride    pixels per grid cell, one number per output level
    state     state dict for inference (the EMA weights); float32, or float16 in a finished file
    training  all that resuming needs, or None in a finished file
    versions  the programs that wrote it
    date      when, ISO 8601
"""

import math
import pickle
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.archive import Archive, is_tensor_global
from utils.errors import UserError
from utils.files import atomic_write
from utils.legacy import MODEL_KEYS, LegacyCheckpoint, is_legacy, read_legacy
from utils.unpickle import describe, is_plain_global, unpickle

FORMAT = "yolov5-akconv"
VERSION = 1

_DAMAGE = (
    pickle.UnpicklingError,
    RuntimeError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
)
"""What `torch.load` raises for damaged files."""


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


@dataclass(frozen=True)
class Checkpoint:
    """A model as saved, and while training goes on, all that is needed to resume.

    Attributes:
        cfg: The model description (model YAML), `nc` and `anchors` as built.
        names: Class index to class name.
        stride: Pixels per grid cell, one number per output level.
        state: State dict for inference (the EMA weights).
        training: Raw weights, optimizer, EMA updates, epoch, random states, options ...; None in a finished file.
        versions: The programs that wrote it.
        date: When it was made, ISO 8601.
    """

    cfg: dict[str, Any]
    names: dict[int, str]
    stride: list[float]
    state: dict[str, Tensor]
    training: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=_versions)
    date: str = field(default_factory=_now)


@dataclass(frozen=True)
class Transfer:
    """What one model can take over from the weights of another.

    Attributes:
        taken: Tensors with the same name and shape in both.
        missing: Names in the model that the source lacks.
        mismatched: (name, shape in the source, shape in the model).
        unused: Names in the source that the model lacks.
        excluded: Names in both that the caller did not want.
    """

    taken: dict[str, Tensor]
    missing: list[str]
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    unused: list[str]
    excluded: list[str]

    @property
    def count(self) -> int:
        """How many tensors were taken."""
        return len(self.taken)

    def summary(self) -> str:
        """What was taken and what was left, by layer, a line for each reason."""
        total = self.count + len(self.missing) + len(self.mismatched) + len(self.excluded)
        lines = [f"took {self.count} of {total} tensors"]
        if self.mismatched:
            layers = _by_layer(name for name, _, _ in self.mismatched)
            name, source, model = self.mismatched[0]
            lines.append(f"left for another shape: {layers} (as {name}: {source} in the file, {model} in the model)")
        for what, names in (
            ("not in the file", self.missing),
            ("left as asked", self.excluded),
            ("in the file only", self.unused),
        ):
            if names:
                lines.append(f"{what}: {_by_layer(names)}")
        return "\n".join(lines)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; a crash leaves the old file as it was.

    Args:
        path: The .pt file, replaced if it exists.
        checkpoint: What to write; tensors are stored on the CPU, numpy numbers and paths as plain values.

    Raises:
        TypeError: If something in it is neither a tensor nor a plain value; names the key.
        OSError: If it cannot be written.
    """
    content = {item.name: _storable(getattr(checkpoint, item.name), item.name) for item in fields(checkpoint)}
    with atomic_write(path) as file:
        try:
            torch.save({"format": FORMAT, "version": VERSION, **content}, file)
        except RuntimeError as error:  # torch closes its archive after a failed write and then reports only that
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of this program; its weights become float32.

    Args:
        path: The .pt file.

    Raises:
        UserError: If it is missing, damaged, of another program, of a newer version, lacks something, or holds weights
            that are not finite.
    """
    path = Path(path)
    _check_format(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path}: is damaged ({reason}); get the file again") from error
    checkpoint = Checkpoint(**{item.name: content.get(item.name) for item in fields(Checkpoint)})
    if wrong := _wrong_fields(checkpoint):
        raise UserError(f"{path}: {', '.join(wrong)} missing or of the wrong type or content; the file is damaged")
    for name, tensor in checkpoint.state.items():
        if not tensor.isfinite().all():
            raise UserError(f"{path}: its weights are not finite ({name}); train again, or get another file")
    return replace(
        checkpoint, state={k: v.float() if v.is_floating_point() else v for k, v in checkpoint.state.items()}
    )


def strip_training(path: Path) -> None:
    """Make a finished file of a checkpoint: without the training state, weights in float16 where they fit.

    Args:
        path: The .pt file, rewritten atomically.

    Raises:
        UserError: If it cannot be read.
    """
    checkpoint = read_checkpoint(path)
    state = {name: _halve(tensor) for name, tensor in checkpoint.state.items()}
    save_checkpoint(path, replace(checkpoint, training=None, state=state))


def open_checkpoint(path: str | Path) -> Checkpoint | LegacyCheckpoint:
    """Read a .pt file of this program, or of YOLOv5, AKConv or LDConv; its content decides which.

    Args:
        path: The .pt file.

    Raises:
        UserError: If it is missing, damaged, or holds no detection model.
    """
    return read_legacy(path) if is_legacy(path) else read_checkpoint(path)


def transfer(model_state: dict[str, Tensor], source: dict[str, Tensor], *, exclude: tuple[str, ...] = ()) -> Transfer:
    """Find the tensors of `source` that fit into a model: same name, same shape.

    Args:
        model_state: State dict of the model.
        source: State dict of the weights.
        exclude: Names that contain one of these texts are left alone, for example ("anchor",).

    Returns:
        The tensors to take, and everything else by reason.
    """
    shared = [name for name in model_state if name in source]
    excluded = [name for name in shared if any(text in name for text in exclude)]
    wanted = [name for name in shared if name not in set(excluded)]
    return Transfer(
        taken={name: source[name] for name in wanted if source[name].shape == model_state[name].shape},
        missing=[name for name in model_state if name not in source],
        mismatched=[
            (name, tuple(source[name].shape), tuple(model_state[name].shape))
            for name in wanted
            if source[name].shape != model_state[name].shape
        ],
        unused=[name for name in source if name not in model_state],
        excluded=excluded,
    )


def _check_format(path: Path) -> None:
    """Refuse a file that is not ours, before torch reads it."""
    if is_legacy(path):
        raise UserError(
            f"{path}: holds pickled Python objects, as files of YOLOv5 do; it is not a checkpoint of this program. "
            "Such a file can be used as --weights, but training cannot be resumed from it"
        )
    with Archive(path) as archive:
        root = unpickle(archive.pickle(), lambda name: is_tensor_global(name) or is_plain_global(name), str(path))
    if not isinstance(root, dict) or root.get("format") != FORMAT:
        found = f"keys {', '.join(map(str, list(root)[:4]))}" if isinstance(root, dict) else f"a {type(root).__name__}"
        raise UserError(
            f"{path}: not a checkpoint of this program nor of YOLOv5 (found {found or 'nothing'}); a bare state dict "
            "does not say which model it belongs to, give the complete .pt file"
        )
    version = root.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise UserError(
            f"{path}: checkpoint format {describe(version)}, this program reads up to {VERSION}; update the program"
        )


def _wrong_fields(checkpoint: Checkpoint) -> list[str]:
    """The fields whose type or content is not what the format says."""
    right = {
        "cfg": isinstance(checkpoint.cfg, dict) and {"nc", *MODEL_KEYS} <= checkpoint.cfg.keys(),
        "names": _is_mapping(checkpoint.names, int, str),
        "stride": isinstance(checkpoint.stride, list)
        and len(checkpoint.stride) > 0
        and all(map(_is_size, checkpoint.stride)),
        "state": _is_mapping(checkpoint.state, str, Tensor),
        "training": checkpoint.training is None or isinstance(checkpoint.training, dict),
        "versions": _is_mapping(checkpoint.versions, str, str),
        "date": isinstance(checkpoint.date, str),
    }
    return [name for name, fine in right.items() if not fine]


def _is_size(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


def _is_mapping(value: object, key_type: type, value_type: type) -> bool:
    return isinstance(value, dict) and all(
        isinstance(k, key_type) and isinstance(v, value_type) for k, v in value.items()
    )


def _storable(value: Any, where: str) -> Any:
    """A copy of a value with nothing in it but tensors on the CPU and plain Python values."""
    if isinstance(value, Tensor):
        return _compact(value)
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Path):
        return str(value)
    for plain_type in (int, float):
        if isinstance(value, plain_type):
            return plain_type(value)
    if isinstance(value, list | tuple):
        items = [_storable(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, dict):
        return {_storable_key(key, where): _storable(item, f"{where}[{key!r}]") for key, item in value.items()}
    raise TypeError(f"{where}: {type(value).__name__} cannot be stored in a checkpoint; convert it to plain values")


def _storable_key(key: Any, where: str) -> Any:
    if not isinstance(key, str | int | np.integer):
        raise TypeError(f"{where}: key {key!r} cannot be stored in a checkpoint; use texts or whole numbers")
    return _storable(key, where)


def _compact(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, without the rest of a larger storage it may be a view of."""
    tensor = tensor.detach().cpu()
    alone = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if alone else tensor.clone()


def _halve(tensor: Tensor) -> Tensor:
    """The tensor in float16, unless that turns a number of it into infinity (a large BatchNorm variance)."""
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    return half if torch.equal(half.isfinite(), tensor.isfinite()) else tensor


def _by_layer(names: Iterable[str]) -> str:
    """`model.1.* (5), model.24.* (7)` for state-dict names."""
    counts: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        layer = ".".join(parts[: 2 if parts[1:2] and parts[1].isdigit() else 1])
        counts[layer] = counts.get(layer, 0) + 1
    return ", ".join(f"{layer}.* ({count})" for layer, count in counts.items())
