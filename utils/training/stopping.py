"""Early stopping."""

import math
from typing import Any

_STATE = ("best_fitness", "best_epoch", "may_stop_next", "stopped")


class EarlyStopper:
    """Ends a training when the fitness has not grown for some epochs.

    Attributes:
        best_fitness: The greatest fitness so far.
        best_epoch: Where it was first reached.
        may_stop_next: Whether the next epoch can be the last.
        stopped: Whether the training should end.
    """

    def __init__(self, patience: int) -> None:
        """Wait for `patience` epochs; 0 or less never stops."""
        self.patience = patience if patience > 0 else math.inf
        self.best_fitness = -1.0
        self.best_epoch = 0
        self.may_stop_next = False
        self.stopped = False

    def update(self, epoch: int, fitness: float) -> None:
        """Take in the fitness of an epoch.

        Args:
            epoch: From 0.
            fitness: Only a greater value than the best so far counts as progress.
        """
        if fitness > self.best_fitness:
            self.best_fitness, self.best_epoch = fitness, epoch
        waited = epoch - self.best_epoch
        self.may_stop_next = waited >= self.patience - 1
        self.stopped = waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """What has to be kept to continue, as plain values."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave.

        Raises:
            KeyError: If something is missing.
            TypeError: If something is no number.
        """
        for name in _STATE:
            if not isinstance(state[name], int | float):
                raise TypeError(f"{name} is no number")
            setattr(self, name, state[name])
