"""Loaders for training and validation: worker processes that make batches."""

import atexit
import math
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from utils.data import extra
from utils.data.augment import AugmentationParameters
from utils.data.batch import Batch, make_batch
from utils.data.cache import CacheKind, open_images
from utils.data.dataset import DetectionDataset, ImageShape, rectangular_batches
from utils.data.packed import PackedSamples
from utils.data.sampling import BatchOrder, BatchPlan
from utils.data.scan import Sample
from utils.errors import UserError

__all__ = ["Batch", "DetectionLoader", "ImageShape", "make_loader"]

_T = TypeVar("_T")


class _Batches(Dataset[Batch | UserError]):
    """Batches by their plans; returns a user's mistake, because PyTorch would wrap it in a worker's traceback."""

    def __init__(self, dataset: DetectionDataset, *, quad: bool) -> None:
        self.dataset = dataset
        self.quad = quad

    def __getitem__(self, plan: BatchPlan) -> Batch | UserError:
        try:
            return make_batch(self.dataset, plan, quad=self.quad)
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
            _Batches(dataset, quad=order.quad),
            sampler=order,
            batch_size=None,  # an index is a whole batch
            num_workers=workers,
            collate_fn=_unchanged,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=start_worker,
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
        others = set(active_children())
        batches = iter(self._batches)
        if workers := set(active_children()) - others:
            # Python ends them with SIGTERM and waits for it, but they leave signals to their parent.
            atexit.register(_kill, workers)
        for batch in batches:
            if isinstance(batch, UserError):
                # A new one: an exception that a local name of its own frame holds is a cycle, and once the garbage
                # collector has taken the workers' queues apart in it, closing the workers waits 5 s for each.
                raise UserError(*batch.args)
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the random changes of the next pass."""
        self._order.epoch = epoch

    def set_weights(self, weights: NDArray[np.floating] | None) -> None:
        """Choose how often images are drawn in the next passes.

        Args:
            weights: (n,) probabilities in the order of `dataset.samples`, with a sum of 1; as many images as there are
                get drawn, with replacement. None for each image once.

        Raises:
            ValueError: For rectangular batches, which keep their images.
        """
        if self._order.keep_batches and weights is not None:
            raise ValueError("rectangular batches keep their images, so these cannot be drawn by weight")
        self._order.weights = None if weights is None else np.asarray(weights, np.float64)


def make_loader(
    samples: Sequence[Sample],
    *,
    imgsz: int,
    batch_size: int,
    stride: int,
    hyp: AugmentationParameters | None = None,
    nine: float = 0.0,
    rect: bool = False,
    pad: float = 0.0,
    quad: bool = False,
    shuffle: bool = False,
    workers: int = 0,
    seed: int = 0,
    cache: CacheKind | None = None,
    rank: int = 0,
    world_size: int = 1,
    local_ranks: int = 1,
    fill: bool = False,
    published_pads: bool = False,
) -> DetectionLoader:
    """Make a loader that is the same for the same arguments, whatever the number of workers and the cache.

    Of several ranks, the r-th gets every `world_size`-th image of each batch, from the r-th on. Together they have the
    images of the only rank of a single process, with the same random changes.

    Args:
        samples: Images and their labels.
        imgsz: Pixels of the long side of an image in the network input; a multiple of `stride`.
        batch_size: Images a batch, over all ranks; the last batch may have fewer.
        stride: What the sides of a rectangular batch are multiples of.
        hyp: What to change at random; None to leave images as they are.
        nine: Probability that a mosaic has nine images instead of four.
        rect: Sort images by aspect ratio into batches of the smallest common shape, instead of squares.
        pad: Border of rectangular batches in strides, before rounding up.
        quad: Put each four images together to one of twice the side, or enlarge one of them, see `make_batch`.
        shuffle: Use another order in each epoch; with `rect`, of the batches.
        workers: Wanted worker processes; no more than its processors or its images a batch are used.
        seed: Of the order and of all random changes.
        cache: Keep resized images in memory ("ram") or on disk ("disk"), see `open_images`.
        rank: Number of this process.
        world_size: Number of processes.
        local_ranks: How many of them are on this machine.
        fill: Give every rank the same number of batches, as training needs it: where a rank has no part of the last
            batch, it gets one image that does not count, see `Batch.filler`. Without, it has one batch less.
        published_pads: Place labels and boxes as YOLOv5 does, see `DetectionDataset`.

    Raises:
        UserError: If there are no samples, or an image cannot be read while a cache is filled.
    """
    if not samples:
        raise UserError("there are no images to load; check the train, val and test entries of the data set YAML")
    batch_size = min(batch_size, len(samples))
    shapes = None
    if rect:
        samples, shapes = rectangular_batches(samples, imgsz=imgsz, batch_size=batch_size, stride=stride, pad=pad)
    packed = PackedSamples(samples)
    dataset = DetectionDataset(
        packed,
        imgsz=imgsz,
        hyp=hyp,
        nine=nine,
        batch_shapes=shapes,
        batch_size=batch_size,
        seed=seed,
        images=open_images(packed, imgsz, augment=hyp is not None, cache=cache, copies=local_ranks),
        published_pads=published_pads,
    )
    if hyp is not None:
        extra.describe()
    order = BatchOrder(
        len(samples),
        batch_size,
        shuffle=shuffle,
        keep_batches=rect,
        seed=seed,
        quad=quad,
        rank=rank,
        world_size=world_size,
        fill=fill,
    )
    own = math.ceil(batch_size / world_size)
    processors = max((os.cpu_count() or 1) // local_ranks, 1)
    return DetectionLoader(dataset, order, min(workers, processors, own if own > 1 else 0))


def _unchanged(batch: _T) -> _T:
    return batch


def _kill(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        if worker.is_alive():
            worker.kill()


def start_worker(_worker: int) -> None:
    """Workers are the parallelism: threads of their own would only compete. Signals are for their parent."""
    use_one_thread()
    for number in (signal.SIGINT, signal.SIGTERM):  # which reach a whole process group; a worker ends with its parent
        signal.signal(number, signal.SIG_IGN)
    sys.excepthook = _report


def use_one_thread() -> None:
    """Let this process compute in one thread."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say what went wrong in a worker's helper thread, unless its parent ended while it took a batch."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
