"""Batches for training and validation: the order of the samples, worker processes, and how batches are put together."""

import math
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.data.augment import AugmentationParameters
from utils.data.dataset import DetectionDataset, ImageShape, Item, rectangular_batches
from utils.data.scan import Sample
from utils.errors import UserError


@dataclass(frozen=True)
class Batch:
    """Network inputs of one shape and what is in them.

    Attributes:
        images: uint8 (B, 3, H, W) RGB.
        targets: float32 (T, 6) image index in the batch, class, cx, cy, w, h in 0..1 of the network input.
        paths: B image files.
        shapes: B ways back to the original images.
    """

    images: Tensor
    targets: Tensor
    paths: list[str]
    shapes: list[ImageShape]

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; called by PyTorch's loader."""
        return replace(self, images=self.images.pin_memory(), targets=self.targets.pin_memory())


class BatchOrder(Sampler[list[tuple[int, int]]]):
    """Which samples form the batches of an epoch, as (epoch, index).

    The epoch travels with the index, so worker processes that live for many epochs always know it.
    """

    def __init__(self, count: int, batch_size: int, *, shuffle: bool, keep_batches: bool, seed: int) -> None:
        """Plan the batches.

        Args:
            count: Number of samples.
            batch_size: Samples a batch; the last batch may have fewer.
            shuffle: Use another order in each epoch; it depends on (seed, epoch) alone.
            keep_batches: Shuffle whole batches of consecutive samples, because they have a shape in common.
            seed: Of the shuffling.
        """
        self.count = count
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.keep_batches = keep_batches
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(self.count / self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.epoch,)))
        mixed = self.shuffle and not self.keep_batches
        order = rng.permutation(self.count).tolist() if mixed else range(self.count)
        batches = [
            [(self.epoch, index) for index in order[start : start + self.batch_size]]
            for start in range(0, self.count, self.batch_size)
        ]
        if self.shuffle and self.keep_batches:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        return iter(batches)


class _Guarded(Dataset[Item | UserError]):
    """A data set that returns a user's mistake instead of raising it: PyTorch would wrap it in a worker's traceback."""

    def __init__(self, dataset: DetectionDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> Item | UserError:
        try:
            return self.dataset[key]
        except UserError as error:
            return error


class DetectionLoader:
    """Batches of a data set, epoch by epoch.

    Attributes:
        dataset: The data set; indices refer to its order of samples.
    """

    def __init__(self, dataset: DetectionDataset, order: BatchOrder, workers: int) -> None:
        """Start nothing yet; worker processes start with the first epoch and live as long as the loader.

        Args:
            dataset: Where items come from.
            order: Which items form the batches.
            workers: Number of worker processes; 0 to load in this process.
        """
        self.dataset = dataset
        self._order = order
        self._batches = DataLoader(
            _Guarded(dataset),
            batch_sampler=order,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_start_worker,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # for the seeds of workers, which use none: leave the global generator alone
        )

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the epoch.

        Raises:
            UserError: If an image cannot be read.
        """
        for batch in self._batches:
            if isinstance(batch, UserError):
                # A new one: an exception that a local name of its own frame holds is a cycle, and once the garbage
                # collector has taken the workers' queues apart in it, closing the workers waits 5 s for each.
                raise UserError(*batch.args)
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the random changes of the next pass."""
        self._order.epoch = epoch


def make_loader(
    samples: list[Sample],
    *,
    imgsz: int,
    batch_size: int,
    stride: int,
    hyp: AugmentationParameters | None = None,
    rect: bool = False,
    pad: float = 0.0,
    shuffle: bool = False,
    workers: int = 0,
    seed: int = 0,
) -> DetectionLoader:
    """Make a loader that is the same for the same arguments, whatever the number of workers.

    Args:
        samples: Images and their labels.
        imgsz: Pixels of the long side of an image in the network input; a multiple of `stride`.
        batch_size: Images a batch; the last batch may have fewer.
        stride: What the sides of a rectangular batch are multiples of.
        hyp: What to change at random; None to leave images as they are.
        rect: Sort images by aspect ratio into batches of the smallest common shape, instead of squares.
        pad: Border of rectangular batches in strides, before rounding up.
        shuffle: Use another order in each epoch; with `rect`, of the batches.
        workers: Wanted worker processes; no more than processors or images a batch are used.
        seed: Of the order and of all random changes.

    Raises:
        UserError: If there are no samples.
    """
    if not samples:
        raise UserError("there are no images to load; check the train, val and test entries of the data set YAML")
    batch_size = min(batch_size, len(samples))
    shapes = None
    if rect:
        samples, shapes = rectangular_batches(samples, imgsz=imgsz, batch_size=batch_size, stride=stride, pad=pad)
    dataset = DetectionDataset(samples, imgsz=imgsz, hyp=hyp, batch_shapes=shapes, batch_size=batch_size, seed=seed)
    order = BatchOrder(len(samples), batch_size, shuffle=shuffle, keep_batches=rect, seed=seed)
    useful = batch_size if batch_size > 1 else 0
    return DetectionLoader(dataset, order, min(workers, os.cpu_count() or 1, useful))


def collate(items: list[Item | UserError]) -> Batch | UserError:
    """Stack items to a batch; the first user's mistake among them takes its place."""
    good: list[Item] = []
    for item in items:
        if isinstance(item, UserError):
            return item
        good.append(item)
    targets = [torch.nn.functional.pad(item.labels, (1, 0), value=i) for i, item in enumerate(good)]
    return Batch(
        torch.stack([item.image for item in good]),
        torch.cat(targets),
        [item.path for item in good],
        [item.shape for item in good],
    )


def _start_worker(_worker: int) -> None:
    """Workers are the parallelism: threads of their own would only compete. Ctrl-C is for the process that has them."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
