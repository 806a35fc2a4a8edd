"""Hyperparameters: the values of a `hyp.*.yaml` file, checked once."""

import dataclasses
import logging
import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from utils.errors import UserError
from utils.files import find_file, read_yaml

log = logging.getLogger(__name__)


_OWN = ("offset_lr", "nbs", "mosaic9")
"""Keys that files of YOLOv5 do not have."""


def _key(default: float | None, low: float, high: float) -> Any:
    return dataclasses.field(default=default, metadata={"range": (low, high)})


@dataclasses.dataclass(frozen=True)
class Hyp:
    """The hyperparameters of a training, YOLOv5's names; the defaults are those of `hyp.scratch-low.yaml`.

    What each key means stands beside its value in the files of `data/hyps`. A probability, a gain or an angle outside
    of the range given here is a typing error rather than a choice, so `load_hyp` refuses it.
    """

    lr0: float = _key(0.01, 0, 1)
    lrf: float = _key(0.01, 0, 1)
    momentum: float = _key(0.937, 0, 0.9999)
    weight_decay: float = _key(0.0005, 0, 1)
    warmup_epochs: float = _key(3.0, 0, 1e6)
    warmup_momentum: float = _key(0.8, 0, 0.9999)
    warmup_bias_lr: float = _key(0.1, 0, 1)
    box: float = _key(0.05, 0, 1000)
    cls: float = _key(0.5, 0, 1000)
    cls_pw: float = _key(1.0, 0, 1000)
    obj: float = _key(1.0, 0, 1000)
    obj_pw: float = _key(1.0, 0, 1000)
    iou_t: float = _key(0.2, 0, 1)
    anchor_t: float = _key(4.0, 1, 1000)
    fl_gamma: float = _key(0.0, 0, 10)
    hsv_h: float = _key(0.015, 0, 1)
    hsv_s: float = _key(0.7, 0, 1)
    hsv_v: float = _key(0.4, 0, 1)
    degrees: float = _key(0.0, 0, 180)
    translate: float = _key(0.1, 0, 1)
    scale: float = _key(0.5, 0, 0.99)
    shear: float = _key(0.0, 0, 89)
    perspective: float = _key(0.0, 0, 0.01)
    flipud: float = _key(0.0, 0, 1)
    fliplr: float = _key(0.5, 0, 1)
    mosaic: float = _key(1.0, 0, 1)
    mixup: float = _key(0.0, 0, 1)
    copy_paste: float = _key(0.0, 0, 1)
    anchors: float | None = _key(None, 0, 100)
    offset_lr: float = _key(1.0, 0, 1000)
    nbs: float = _key(64, 1, 1e6)
    mosaic9: float = _key(0.0, 0, 1)

    def to_dict(self) -> dict[str, float]:
        """The values under their names, `anchors` only if it was given."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


def load_hyp(name: str) -> Hyp:
    """Read a hyperparameter file.

    Args:
        name: A path, or a bare file name below `data/hyps`.

    Raises:
        UserError: If the file is not found, has an unknown key, or a value that is no number or out of range.
    """
    path = find_file(name, ("data/hyps",))
    content = read_yaml(path)
    hyp = parse_hyp(content, str(path))
    if missing := [key for key in hyp.to_dict() if key not in content and key not in _OWN]:
        values = ", ".join(f"{key} {getattr(hyp, key):g}" for key in missing)
        log.info("%s: not given, so the values of hyp.scratch-low are used: %s", path, values)
    return hyp


def parse_hyp(content: Mapping[str, Any], source: str) -> Hyp:
    """Check a mapping of hyperparameters.

    Args:
        content: Keys and values as read from YAML or a checkpoint.
        source: Where they come from, for messages.

    Raises:
        UserError: If a key is unknown, or a value is no number or out of range.
    """
    ranges = {field.name: field.metadata["range"] for field in dataclasses.fields(Hyp)}
    values = {}
    for key, value in content.items():
        if key not in ranges:
            near = get_close_matches(str(key), ranges, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(ranges)}"
            raise UserError(f"{source}: unknown hyperparameter {key!r}; {hint}")
        values[key] = _number(value, *ranges[key], where=f"{source}: {key}")
    return Hyp(**values)


def _number(value: Any, low: float, high: float, *, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # YAML reads 1e-5 as text
    except (TypeError, ValueError):
        number = math.nan
    if not low <= number <= high:
        raise UserError(f"{where} is {value!r}; expected a number from {low:g} to {high:g}")
    return number
