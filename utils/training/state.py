"""Everything that changes during a training, and how it goes into a checkpoint and comes back."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from utils.errors import UserError
from utils.training.ema import ModelEMA
from utils.training.seed import random_states, restore_random_states
from utils.training.stopping import EarlyStopper

_UNFIT = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError)
"""What torch, NumPy and Python raise for a state that is not theirs."""


@dataclasses.dataclass
class TrainingState:
    """The state of a training between two epochs.

    Attributes:
        model: What is trained.
        ema: Its average, which is evaluated.
        optimizer: With its momenta.
        scaler: Of the loss, for half precision; disabled elsewhere.
        stopper: Knows how long there was no progress.
        epoch: The next epoch to train.
        best_fitness: Of all epochs so far.
        class_ap: mAP of each class when last evaluated.
    """

    model: nn.Module
    ema: ModelEMA
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    stopper: EarlyStopper
    epoch: int = 0
    best_fitness: float = -1.0
    class_ap: list[float] = dataclasses.field(default_factory=list)

    def capture(self) -> dict[str, Any]:
        """All of it but the average's weights, as plain values and tensors; the tensors are not copied."""
        return {
            "model": self.model.state_dict(),
            "ema_updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "stopper": self.stopper.state_dict(),
            "epoch": self.epoch,
            "best_fitness": self.best_fitness,
            "class_ap": self.class_ap,
            "random": random_states(),
        }

    def restore(self, captured: Mapping[str, Any], average: Mapping[str, torch.Tensor], source: str) -> None:
        """Continue from a checkpoint.

        Args:
            captured: What `capture` gave.
            average: State dict of the averaged model.
            source: Where they come from, for messages.

        Raises:
            UserError: If a part does not fit; names it.
        """
        self.ema.model.load_state_dict(average)
        self.ema.updates = captured["ema_updates"]
        self.epoch = captured["epoch"]
        self.best_fitness = captured["best_fitness"]
        self.class_ap = list(captured["class_ap"])
        parts: dict[str, Callable[[Any], object]] = {
            "model": self.model.load_state_dict,
            "optimizer": self._load_optimizer,
            "scaler": self._load_scaler,
            "stopper": self.stopper.load_state_dict,
            "random": restore_random_states,
        }
        for key, load in parts.items():
            try:
                load(captured[key])
            except _UNFIT as error:
                reason = " ".join(str(error).split())[:200]
                raise UserError(
                    f"{source}: training[{key!r}] does not fit ({type(error).__name__}: {reason}), so the training "
                    f"cannot go on; start a new run from it with --weights {source}"
                ) from error

    def _load_scaler(self, stored: dict[str, Any]) -> None:
        if stored:  # empty after a training without half precision, which the scaler would refuse
            self.scaler.load_state_dict(stored)

    def _load_optimizer(self, stored: dict[str, Any]) -> None:
        """Load, and check what torch would notice only at the first step, or never."""
        kinds = [(group["kind"], group["lr_factor"]) for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(stored)
        if kinds != [(group["kind"], group["lr_factor"]) for group in self.optimizer.param_groups]:
            raise ValueError("other groups of parameters")
        for parameter, memory in self.optimizer.state.items():
            for name, value in memory.items():
                if isinstance(value, torch.Tensor) and value.ndim and value.shape != parameter.shape:
                    found, expected = tuple(value.shape), tuple(parameter.shape)
                    raise ValueError(f"{name} of shape {found} for a parameter of shape {expected}")
