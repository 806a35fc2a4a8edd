"""Learning rate, momentum and accumulation as pure functions of the iteration, so that resuming needs no state."""

import dataclasses
import math

from utils.training.hyp import Hyp

_NOMINAL_BATCH_SIZE = 64
_SHORTEST_WARMUP = 100


def accumulation(batch_size: int) -> int:
    """Number of batches that make one optimizer step, so that a step sees about 64 images."""
    return max(round(_NOMINAL_BATCH_SIZE / batch_size), 1)


def step_size(batch_size: int) -> float:
    """Images that one optimizer step sees, in units of 64."""
    return batch_size * accumulation(batch_size) / _NOMINAL_BATCH_SIZE


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
            return Settings(lr, lr, self.hyp.momentum, accumulation(self.batch_size))
        t = iteration / self.warmup
        return Settings(
            lr=t * lr,
            bias_lr=_between(self.hyp.warmup_bias_lr, lr, t),
            momentum=_between(self.hyp.warmup_momentum, self.hyp.momentum, t),
            accumulate=max(1, round(_between(1, _NOMINAL_BATCH_SIZE / self.batch_size, t))),
        )


def _between(start: float, end: float, t: float) -> float:
    return start + (end - start) * t
