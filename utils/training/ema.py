"""Exponential moving average of a model's weights."""

import copy
import math
from typing import Generic, TypeVar

import torch
from torch import nn

Net = TypeVar("Net", bound=nn.Module)

_DECAY = 0.9999
_RAMP = 2000  # updates after which the decay has come close to its final value
_AVERAGED_BUFFERS = ("running_mean", "running_var")


class ModelEMA(Generic[Net]):
    """A copy of a model that follows it slowly; it is what is evaluated and saved.

    Parameters and the statistics of norm layers are averaged. Every other buffer (anchors, strides, counters) is
    copied, since an average of constants is only almost constant.

    Source: behaviour of YOLOv5's weight averaging.
    """

    def __init__(self, model: Net) -> None:
        """Start from the present weights of `model`, in eval mode and without gradients."""
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.updates = 0

    @staticmethod
    def decay(updates: int) -> float:
        """Share of the old average that stays at the given update, counted from 1."""
        return _DECAY * (1 - math.exp(-updates / _RAMP))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the present weights of `model`."""
        self.updates += 1
        source = model.state_dict()
        parameters = {name for name, _ in self.model.named_parameters()}
        averaged, new = [], []
        for name, value in self.model.state_dict().items():
            if name in parameters or name.endswith(_AVERAGED_BUFFERS):
                averaged.append(value)
                new.append(source[name])
            else:
                value.copy_(source[name])
        torch._foreach_lerp_(averaged, new, 1 - self.decay(self.updates))  # one kernel, not one per tensor
