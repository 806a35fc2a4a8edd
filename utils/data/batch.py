"""Batches: network inputs of one shape in one piece of memory, with their targets."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import get_worker_info

from utils.data.dataset import DetectionDataset, ImageShape, Item
from utils.data.images import Image
from utils.data.sampling import QUAD, BatchPlan, Key


@dataclass(frozen=True)
class Batch:
    """Network inputs of one shape and what is in them.

    Attributes:
        images: uint8 (B, 3, H, W) RGB.
        targets: float32 (T, 6) image index in the batch, class, cx, cy, w, h in 0..1 of the network input.
        paths: B image files; of an image made of several, the first.
        shapes: B ways back to the original images.
        filler: The images do not count: they are there because this rank has no part of the batch, but has to take
            part in the step. Such a batch has no targets.
    """

    images: Tensor
    targets: Tensor
    paths: list[str]
    shapes: list[ImageShape]
    filler: bool = False

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; called by PyTorch's loader."""
        return replace(self, images=self.images.pin_memory(), targets=self.targets.pin_memory())


def make_batch(dataset: DetectionDataset, plan: BatchPlan, *, quad: bool = False) -> Batch:
    """Make the network inputs of a batch.

    Every pixel is written once, in a worker process right into memory that it shares with the main process.

    Args:
        dataset: Where they come from.
        plan: Which ones.
        quad: Double the sides: a group of four images becomes one tile of two by two or, every other time, the first
            of them enlarged; so does one that is alone.

    Raises:
        UserError: If an image cannot be read.
    """
    height, width = dataset.shape(plan.groups[0][0][1])
    side = 2 if quad else 1
    images = torch.empty((len(plan.groups), 3, side * height, side * width), dtype=torch.uint8)
    if get_worker_info() is not None:
        images.share_memory_()
    make = _quad_item if quad else _item
    items = [make(dataset, group, out) for group, out in zip(plan.groups, images.numpy(), strict=True)]
    targets = torch.cat([F.pad(item.labels, (1, 0), value=i) for i, item in enumerate(items)])
    return Batch(
        images,
        targets[:0] if plan.filler else targets,
        [item.path for item in items],
        [item.shape for item in items],
        plan.filler,
    )


def _item(dataset: DetectionDataset, group: list[Key], out: Image) -> Item:
    return dataset.item(group[0], out)


def _quad_item(dataset: DetectionDataset, group: list[Key], out: Image) -> Item:
    """One image of twice the side; boxes are relative, so those of an enlarged image stay as they are."""
    rng = np.random.default_rng(np.random.SeedSequence((dataset.seed, *group[0]), spawn_key=(QUAD,)))
    height, width = (side // 2 for side in out.shape[1:])
    if len(group) < QUAD or rng.random() < 0.5:
        item = dataset.item(group[0])
        for plane, shown in zip(item.image.numpy(), out, strict=True):
            cv2.resize(plane, (2 * width, 2 * height), dst=shown, interpolation=cv2.INTER_LINEAR)
        return replace(item, image=torch.from_numpy(out), shape=ImageShape((2 * height, 2 * width)))
    items, labels = [], []
    for number, key in enumerate(group):
        x, y = divmod(number, 2)  # top left, bottom left, top right, bottom right
        item = dataset.item(key)
        out[:, y * height : (y + 1) * height, x * width : (x + 1) * width] = item.image.numpy()
        items.append(item)
        labels.append((item.labels + torch.tensor((0, x, y, 0, 0))) * torch.tensor((1, 0.5, 0.5, 0.5, 0.5)))
    return Item(torch.from_numpy(out), torch.cat(labels), items[0].path, ImageShape((2 * height, 2 * width)))
