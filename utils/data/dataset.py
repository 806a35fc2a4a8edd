"""A detection data set: samples on disk as network inputs with their labels, augmented on request."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from utils.data.augment import AugmentationParameters, jitter_colours, random_affine, random_flip
from utils.data.images import Image, applied_pad, letterbox, read_image, resize_long_side, to_chw_rgb
from utils.data.mosaic import copy_paste, mixup, mosaic
from utils.data.objects import Objects
from utils.data.scan import Sample


@dataclass(frozen=True)
class ImageShape:
    """How an image became the network's input; what `utils.boxes.unletterbox` needs.

    An augmented image has no way back: it counts as an original that was never resized.

    Attributes:
        original: (h, w) of the image.
        ratio: (horizontal, vertical) factor from the original to the network input.
        pad: (left, top) pixels of padding in the network input.
    """

    original: tuple[int, int]
    ratio: tuple[float, float] = (1.0, 1.0)
    pad: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Item:
    """One network input.

    Attributes:
        image: uint8 (3, H, W) RGB.
        labels: (n, 5) class, cx, cy, w, h in 0..1 of the network input.
        path: The image file.
        shape: The way back to the original image.
    """

    image: Tensor
    labels: Tensor
    path: str
    shape: ImageShape


class DetectionDataset(Dataset[Item]):
    """Samples as square network inputs, or as rectangular ones of one shape a batch.

    An item depends on (seed, epoch, index) alone, neither on the worker that makes it nor on what was made before.

    Attributes:
        samples: In the order of the indices; for rectangular batches sorted by their aspect ratio.
    """

    def __init__(
        self,
        samples: list[Sample],
        *,
        imgsz: int,
        hyp: AugmentationParameters | None = None,
        batch_shapes: list[tuple[int, int]] | None = None,
        batch_size: int = 1,
        seed: int = 0,
    ) -> None:
        """Prepare to make items; nothing is read yet.

        Args:
            samples: Images and their labels.
            imgsz: Pixels of the long side of an image in the network input.
            hyp: What to change at random; None to leave images as they are.
            batch_shapes: (h, w) of each batch of `batch_size` consecutive samples, see `rectangular_batches`; there is
                no mosaic then. None for squares of `imgsz`.
            batch_size: Samples a batch, of use with `batch_shapes` only.
            seed: Of all random numbers.
        """
        self.samples = samples
        self.imgsz = imgsz
        self.hyp = hyp
        self.batch_shapes = batch_shapes
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        """The item of (epoch, index).

        Raises:
            UserError: If an image cannot be read.
        """
        epoch, index = key
        path = str(self.samples[index].path)
        if self.hyp is None:
            image, objects, shape = self._plain(index, augment=False)
        else:
            rng = np.random.default_rng((self.seed, epoch, index))
            image, objects = self._augmented(index, self.hyp, rng)
            shape = ImageShape((image.shape[0], image.shape[1]))
        labels = objects.to_labels((image.shape[1], image.shape[0]))
        return Item(torch.from_numpy(to_chw_rgb(image)), torch.from_numpy(labels), path, shape)

    def _augmented(self, index: int, hyp: AugmentationParameters, rng: Generator) -> tuple[Image, Objects]:
        if self.batch_shapes is None and rng.random() < hyp.mosaic:
            scene = self._mosaic(index, hyp, rng)
            if rng.random() < hyp.mixup:
                other = self._mosaic(int(rng.integers(len(self))), hyp, rng)
                scene = mixup(scene, other, rng)
        else:
            image, objects, _ = self._plain(index, augment=True)
            scene = random_affine(image, objects, hyp, rng, (image.shape[0], image.shape[1]))
        image, objects = scene
        return random_flip(jitter_colours(image, hyp, rng), objects, hyp, rng)

    def _mosaic(self, index: int, hyp: AugmentationParameters, rng: Generator) -> tuple[Image, Objects]:
        """The image and three others drawn from all, in random places."""
        indices = rng.permutation((index, *rng.integers(len(self), size=3)))
        tiles = []
        for i in indices:
            sample = self.samples[i]
            image = resize_long_side(read_image(sample.path), self.imgsz, augment=True)
            size = image.shape[1], image.shape[0]
            tiles.append((image, Objects.from_labels(sample.labels, sample.polygons, size)))
        image, objects = copy_paste(*mosaic(tiles, self.imgsz, rng), hyp.copy_paste, rng)
        return random_affine(image, objects, hyp, rng, (self.imgsz, self.imgsz))

    def _plain(self, index: int, *, augment: bool) -> tuple[Image, Objects, ImageShape]:
        """One image, letterboxed; when not augmenting never enlarged beyond `imgsz`."""
        sample = self.samples[index]
        original = read_image(sample.path)
        resized = resize_long_side(original, self.imgsz, augment=augment)
        target = self.imgsz if self.batch_shapes is None else self.batch_shapes[index // self.batch_size]
        image, ratio, half_pad = letterbox(resized, target, auto=False, scale_up=augment)
        # What is left of the image in whole pixels, and where it really lies: the labels follow the pixels.
        width, height = round(resized.shape[1] * ratio[0]), round(resized.shape[0] * ratio[1])
        left, top = applied_pad(half_pad)
        objects = Objects.from_labels(sample.labels, sample.polygons, (width, height)).mapped((1, 1), (left, top))
        h, w = original.shape[:2]
        return image, objects, ImageShape((h, w), (width / w, height / h), (left, top))


def rectangular_batches(
    samples: list[Sample], *, imgsz: int, batch_size: int, stride: int, pad: float
) -> tuple[list[Sample], list[tuple[int, int]]]:
    """Sort samples so that a batch has images of similar shape, and find the smallest shape for each batch.

    Args:
        samples: Images with their (h, w).
        imgsz: Pixels of the long side of an image in the network input.
        batch_size: Samples a batch.
        stride: What the sides of a batch are multiples of.
        pad: Added to the number of strides of a side before rounding up: a border for objects at the edge.

    Returns:
        The samples sorted by h / w, and (h, w) of each batch.
    """
    ratios = np.array([sample.shape[0] / sample.shape[1] for sample in samples])
    # Equal ratios in the order of numpy's default sort, as in published evaluations: which batch an image is in changes
    # its padding, and with it P of coco128 by 0.016 (mAP by less than 0.001).
    order = np.argsort(ratios)
    shapes = []
    for start in range(0, len(order), batch_size):
        batch = ratios[order[start : start + batch_size]]
        height, width = min(batch[-1], 1.0), min(1 / batch[0], 1.0)
        h, w = (int(np.ceil(side * imgsz / stride + pad)) * stride for side in (height, width))
        shapes.append((h, w))
    return [samples[i] for i in order], shapes
