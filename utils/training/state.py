"""Everything that changes during a training, and how it goes into a checkpoint and comes back."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from utils.training.ema import ModelEMA
from utils.training.seed import random_states, restore_random_states
from utils.training.stopping import EarlyStopper


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
    """

    model: nn.Module
    ema: ModelEMA
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    stopper: EarlyStopper
    epoch: int = 0
    best_fitness: float = -1.0

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
            "random": random_states(),
        }

    def restore(self, captured: Mapping[str, Any], average: Mapping[str, torch.Tensor]) -> None:
        """Continue from a checkpoint.

        Args:
            captured: What `capture` gave.
            average: State dict of the averaged model.
        """
        self.model.load_state_dict(captured["model"])
        self.ema.model.load_state_dict(average)
        self.ema.updates = captured["ema_updates"]
        self.optimizer.load_state_dict(captured["optimizer"])
        if captured["scaler"]:  # empty after a training without half precision, which the scaler would refuse
            self.scaler.load_state_dict(captured["scaler"])
        self.stopper.load_state_dict(captured["stopper"])
        self.epoch = captured["epoch"]
        self.best_fitness = captured["best_fitness"]
        restore_random_states(captured["random"])
