"""Early stopping."""

import math
from typing import Any


class EarlyStopper:
    """Ends a training when the fitness has not grown for some epochs."""

    def __init__(self, patience: int) -> None:
        """Wait for `patience` epochs; 0 or less never stops."""
        self.patience = patience if patience > 0 else math.inf
        self.best_fitness = -1.0
        self.best_epoch = 0
        self.may_stop_next = False

    def update(self, epoch: int, fitness: float) -> bool:
        """Take in the fitness of an epoch.

        Args:
            epoch: From 0.
            fitness: Only a greater value than the best so far counts as progress.

        Returns:
            True if the training should end.
        """
        if fitness > self.best_fitness:
            self.best_fitness, self.best_epoch = fitness, epoch
        waited = epoch - self.best_epoch
        self.may_stop_next = waited >= self.patience - 1
        return waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """What has to be kept to continue, as plain values."""
        return {"best_fitness": self.best_fitness, "best_epoch": self.best_epoch, "may_stop_next": self.may_stop_next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        self.best_fitness = state["best_fitness"]
        self.best_epoch = state["best_epoch"]
        self.may_stop_next = state["may_stop_next"]
