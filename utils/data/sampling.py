"""Which samples form the batches of an epoch, on each of several ranks, and how often each is drawn."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from utils.data.scan import Sample

Key = tuple[int, ...]
"""(epoch, index of the sample), and the number of the draw if it was drawn before in the epoch: what the random changes
of a network input depend on, besides the seed."""

QUAD = 4
"""Images that become one of twice the side."""
LEAST_WEIGHT = 0.1
"""Part of the mean weight that each image gets at least, so that backgrounds and well known classes stay in sight."""


@dataclass(frozen=True)
class BatchPlan:
    """What one batch is made of.

    Attributes:
        groups: The samples of each network input: one, or with quad batches four or one.
        filler: The only group is there because this rank has no part of the batch, but has to take part in the step.
    """

    groups: list[list[Key]]
    filler: bool = False


class BatchOrder(Sampler[BatchPlan]):
    """The batches of an epoch.

    The epoch travels with the plans, so worker processes that live for many epochs always know it. The batches do not
    depend on the number of ranks: rank r of W gets every W-th network input of each, from the r-th on.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        shuffle: bool,
        keep_batches: bool,
        seed: int,
        quad: bool = False,
        rank: int = 0,
        world_size: int = 1,
        fill: bool = False,
    ) -> None:
        """Plan the batches.

        Args:
            count: Number of samples.
            batch_size: Samples a batch, over all ranks; the last batch may have fewer.
            shuffle: Use another order in each epoch; it depends on (seed, epoch) alone.
            keep_batches: Shuffle whole batches of consecutive samples, because they have a shape in common.
            seed: Of the shuffling.
            quad: Put each four samples together; those left over stand alone.
            rank: Number of this process.
            world_size: Number of processes.
            fill: Give every rank the same number of batches, where needed with a filler; else leave out the batches of
                which a rank has no part.
        """
        self.count = count
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.keep_batches = keep_batches
        self.seed = seed
        self.quad = quad
        self.rank = rank
        self.world_size = world_size
        self.fill = fill
        self.epoch = 0
        self.weights: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        whole, rest = divmod(self.count, self.batch_size)
        parts = [(whole, self._groups_of(self.batch_size)), (1, self._groups_of(rest))]
        return sum(batches for batches, groups in parts if groups > self.rank or (self.fill and groups))

    def __iter__(self) -> Iterator[BatchPlan]:
        for batch in self._batches():
            size = QUAD if self.quad else 1
            whole = len(batch) // size * size
            groups = [batch[start : start + size] for start in range(0, whole, size)]
            groups += [[key] for key in batch[whole:]]
            if own := groups[self.rank :: self.world_size]:
                yield BatchPlan(own)
            elif self.fill:
                yield BatchPlan([groups[self.rank % len(groups)]], filler=True)

    def _groups_of(self, size: int) -> int:
        return sum(divmod(size, QUAD)) if self.quad else size

    def _batches(self) -> list[list[Key]]:
        """The batches over all ranks."""
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.epoch,)))
        order: Sequence[int] = range(self.count)
        if self.weights is not None:
            order = rng.choice(self.count, self.count, p=self.weights).tolist()
        elif self.shuffle and not self.keep_batches:
            order = rng.permutation(self.count).tolist()
        drawn: Counter[int] = Counter()
        keys: list[Key] = []
        for index in order:
            keys.append((self.epoch, index, drawn[index]) if drawn[index] else (self.epoch, index))
            drawn[index] += 1
        batches = [keys[start : start + self.batch_size] for start in range(0, self.count, self.batch_size)]
        if self.shuffle and self.keep_batches:
            batches = [batches[i] for i in rng.permutation(math.ceil(self.count / self.batch_size))]
        return batches


def class_balanced_weights(samples: Sequence[Sample], nc: int) -> NDArray[np.float64]:
    """Probabilities with which every class is met equally often: draw a class, then an image that has it.

    Backgrounds keep their part of the draws. (Class-aware sampling, https://arxiv.org/abs/1512.05830.)

    Args:
        samples: Images and labels.
        nc: Number of classes; those without objects are left aside.

    Returns:
        (n,) with a sum of 1.
    """
    image, cls = _objects(samples)
    pairs = np.unique(image * nc + cls)  # once for each image and class
    image, cls = pairs // nc, pairs % nc
    images_of_class = np.bincount(cls, minlength=nc)
    weights = np.bincount(image, 1 / images_of_class[cls], minlength=len(samples)).astype(np.float64)
    background = weights == 0
    weights *= (~background).sum() / max(weights.sum(), 1e-12)
    weights[background] = 1
    return weights / weights.sum()


def image_weights(samples: Sequence[Sample], class_ap: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities that favour images with many objects of classes that are rare and not yet well detected.

    Each object of class c counts (1 - AP)^2 / number of objects of class c.

    Args:
        samples: Images and labels.
        class_ap: (nc,) mAP of each class, 0..1.

    Returns:
        (n,) with a sum of 1; none is much below `LEAST_WEIGHT` / n.
    """
    image, cls = _objects(samples)
    counts = np.bincount(cls, minlength=len(class_ap)).clip(1)
    gain = (1 - np.asarray(class_ap, np.float64)) ** 2 / counts
    weights = np.bincount(image, gain[cls], minlength=len(samples)).astype(np.float64)
    if not weights.any():
        weights[:] = 1
    weights = weights.clip(LEAST_WEIGHT * weights.mean())
    return weights / weights.sum()


def _objects(samples: Sequence[Sample]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(t,) index of the image and (t,) class of all objects."""
    classes = [sample.labels[:, 0] for sample in samples]
    image = np.repeat(np.arange(len(classes)), [len(c) for c in classes])
    return image, np.concatenate([np.zeros(0), *classes]).astype(np.int64)
