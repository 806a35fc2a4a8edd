"""Layers that are not trained."""

import logging
from collections.abc import Sequence

from torch import nn

from utils.errors import UserError

log = logging.getLogger(__name__)


def freeze(model: nn.Module, numbers: Sequence[int]) -> None:
    """Exclude the parameters of some layers from training; the statistics of their norm layers still follow the data.

    Args:
        model: With parameters called `model.<layer>.` as in YOLOv5.
        numbers: Indices of layers; a single number N stands for the first N.

    Raises:
        UserError: If there is no such layer, or nothing would be left to train.
    """
    parameters = dict(model.named_parameters())
    count = 1 + max(int(name.split(".")[1]) for name in parameters)
    if len(numbers) == 1 and numbers[0] > count:
        raise UserError(f"--freeze {numbers[0]}: the model has only {count} layers; give a smaller number")
    layers = range(numbers[0]) if len(numbers) == 1 else numbers
    if missing := [layer for layer in layers if layer >= count]:
        raise UserError(f"--freeze: layer {missing[0]} does not exist, the model has layers 0 to {count - 1}")
    for name, parameter in parameters.items():
        parameter.requires_grad = int(name.split(".")[1]) not in layers
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError("--freeze: every layer is frozen, nothing is left to train; freeze fewer layers")
    if layers:
        log.info("frozen layers: %s", ", ".join(map(str, layers)))
