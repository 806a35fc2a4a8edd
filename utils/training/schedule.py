"""Learning rate, momentum and accumulation as pure functions of the iteration, so that resuming needs no state."""

import dataclasses
import math

from utils.training.hyp import Hyp

_SHORTEST_WARMUP = 100


def accumulation(batch_size: int, nominal: float = 64) -> int:
    """Number of batches that make one optimizer step, so that a step sees about `nominal` images."""
    return max(round(nominal / batch_size), 1)


def step_size(batch_size: int, nominal: float = 64) -> float:
    """Images that one optimizer step sees, in units of `nominal`."""
    return batch_size * accumulation(batch_size, nominal) / nominal


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the optimizer uses at one iteration."""

    lr: float
    bias_lr: float
    momentum: float
    accumulate: int


def decay_factor(epoch: int, epochs: int, lrf: float, *, cosine: bool = False) -> float:
    """Factor on lr0 in an epoch.

    Args:
        epoch: From 0.
        epochs: Length of the training; the factor would reach `lrf` there.
        lrf: Final factor.
        cosine: Half a cosine wave instead of a straight line.
    """
    done = epoch / epochs
    if cosine:
        done = (1 - math.cos(math.pi * done)) / 2
    return 1 + (lrf - 1) * done


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The schedule of one training.

    Attributes:
        hyp: For lr0, lrf, momentum and the warm-up.
        epochs: Length of the training.
        batches: Number of batches per epoch.
        batch_size: Images per batch.
        cosine: Shape of the decay.
    """

    hyp: Hyp
    epochs: int
    batches: int
    batch_size: int
    cosine: bool = False

    @property
    def warmup(self) -> int:
        """Iteration at which the warm-up ends: at least 100, or 0 if `warmup_epochs` is 0 (no warm-up at all)."""
        if self.hyp.warmup_epochs == 0:
            return 0
        return max(round(self.hyp.warmup_epochs * self.batches), _SHORTEST_WARMUP)

    def at(self, iteration: int, epoch: int) -> Settings:
        """Settings of one iteration.

        Args:
            iteration: Counted from 0 over all epochs.
            epoch: From 0.
        """
        lr = self.hyp.lr0 * decay_factor(epoch, self.epochs, self.hyp.lrf, cosine=self.cosine)
        if iteration >= self.warmup:
            return Settings(lr, lr, self.hyp.momentum, accumulation(self.batch_size, self.hyp.nbs))
        t = iteration / self.warmup
        return Settings(
            lr=t * lr,
            bias_lr=_between(self.hyp.warmup_bias_lr, lr, t),
            momentum=_between(self.hyp.warmup_momentum, self.hyp.momentum, t),
            accumulate=max(1, round(_between(1, self.hyp.nbs / self.batch_size, t))),
        )


def _between(start: float, end: float, t: float) -> float:
    return start + (end - start) * t
