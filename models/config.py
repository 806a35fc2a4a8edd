"""Model YAML: finding the file a name means, and turning a delta on a base into a complete model."""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.files import find_file, read_yaml

_RULE = re.compile(r"(?P<base>.+)-ak(?P<n>\d+)\.ya?ml")
_REQUIRED = ("nc", "depth_multiple", "width_multiple", "anchors", "backbone", "head")
_OPTIONAL = ("activation", "channel_multiple", "ch", "inplace")
_DELTA = ("base", "downsample")


def load_model_config(name: str | Path, *, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """The complete model that a file name means.

    A file may be a delta: `base: yolov5n.yaml`, any key of it to change, and `downsample: [AKConv, 5]`, which puts
    an AKConv of 5 points in the place of every 3x3 stride-2 Conv (a mapping of options may follow the 5). A name
    `<base>-ak<N>.yaml` without a file means that delta.

    Args:
        name: A path, or the name of a file below models/.
        above: The deltas that led here, to notice a circle.

    Returns:
        A mapping with the keys of a v5 model file.

    Raises:
        UserError: If there is no such file, or it is not a model.
    """
    content, path = _read(str(name))
    if "base" not in content:
        _check_keys(content, path)
        return content
    unknown = [key for key in content if key not in (*_DELTA, *_REQUIRED, *_OPTIONAL)]
    if unknown:
        raise UserError(f"{path}: unknown key {unknown[0]!r}{_near(unknown[0])}")
    beside = Path(path).parent / str(content["base"])
    if path in above:
        raise UserError(f"{path}: its base leads back to itself, by way of {' and '.join(above)}; name another base")
    base = load_model_config(beside if beside.is_file() else str(content["base"]), above=(*above, path))
    base.update({key: value for key, value in content.items() if key not in _DELTA})
    if "downsample" in content:
        for part in ("backbone", "head"):
            base[part] = [_replace(row, content["downsample"], path) for row in base[part]]
    return base


def _read(name: str) -> tuple[dict[str, Any], str]:
    try:
        path = find_file(name, ("models", "models/hub"))
    except UserError:
        rule = _RULE.fullmatch(name)
        if rule is None:
            raise
        return {"base": f"{rule['base']}.yaml", "downsample": ["AKConv", int(rule["n"])]}, name
    return read_yaml(path), str(path)


def _check_keys(content: dict[str, Any], path: str) -> None:
    for key in content:
        if key not in (*_REQUIRED, *_OPTIONAL):
            raise UserError(f"{path}: unknown key {key!r}{_near(key)}")
    for key in _REQUIRED:
        if key not in content:
            raise UserError(f"{path}: key {key!r} is missing; a model file needs {', '.join(_REQUIRED)}")


def _near(key: str) -> str:
    near = get_close_matches(str(key), (*_REQUIRED, *_OPTIONAL, *_DELTA), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join((*_REQUIRED, *_OPTIONAL, *_DELTA))}"


def _replace(row: Any, downsample: Any, path: str) -> Any:
    """The row with AKConv in the place of a 3x3 stride-2 Conv, any other row as it is."""
    match downsample:
        case [str(module), int(points), *options] if (
            points >= 1 and points is not True and all(isinstance(o, dict) for o in options)
        ):
            pass
        case _:
            raise UserError(f"{path}: downsample is {downsample!r}, expected for example [AKConv, 5]")
    match row:
        case [source, number, "Conv", [channels, 3, 2, *_]]:
            return [source, number, module, [channels, points, 2, *options]]
    return row
