"""A detection data set: samples on disk as network inputs with their labels, augmented on request."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from utils.data.augment import AugmentationParameters, jitter_colours, random_affine, random_flip
from utils.data.cache import FileReader, ImageReader
from utils.data.canvas import Canvas, Picture
from utils.data.extra import apply_extra, installed
from utils.data.images import Image, applied_pad, letterbox, to_chw_rgb
from utils.data.mosaic import copy_paste, mixup, mosaic, mosaic9
from utils.data.objects import Objects
from utils.data.packed import PackedSamples
from utils.data.sampling import Key
from utils.data.scan import Sample


@dataclass(frozen=True)
class ImageShape:
    """How an image became the network's input; what `utils.boxes.unletterbox` needs.

    An augmented image has no way back: it counts as an original that was never resized.

    Attributes:
        original: (h, w) of the image.
        ratio: (horizontal, vertical) factor from the original to the network input.
        pad: (left, top) pixels of padding in the network input; with fractions where `DetectionDataset` was told so.
    """

    original: tuple[int, int]
    ratio: tuple[float, float] = (1.0, 1.0)
    pad: tuple[float, float] = (0, 0)


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

    An item depends on the seed and its key alone, neither on the worker that makes it nor on what was made before.

    Attributes:
        samples: In the order of the indices; for rectangular batches sorted by their aspect ratio.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        imgsz: int,
        hyp: AugmentationParameters | None = None,
        nine: float = 0.0,
        batch_shapes: list[tuple[int, int]] | None = None,
        batch_size: int = 1,
        seed: int = 0,
        images: ImageReader | None = None,
        published_pads: bool = False,
    ) -> None:
        """Prepare to make items; nothing is read yet.

        Args:
            samples: Images and their labels.
            imgsz: Pixels of the long side of an image in the network input.
            hyp: What to change at random; None to leave images as they are.
            nine: Probability that a mosaic has nine images instead of four.
            batch_shapes: (h, w) of each batch of `batch_size` consecutive samples, see `rectangular_batches`; there is
                no mosaic then. None for squares of `imgsz`.
            batch_size: Samples a batch, of use with `batch_shapes` only.
            seed: Of all random numbers.
            images: Where resized images come from; by default the files of the samples.
            published_pads: Take half of the padding for what is left of and above an image, as YOLOv5 does, though
                the pixels cannot: where it is odd, labels and boxes are half a pixel beside the image.
        """
        self.samples = samples if isinstance(samples, PackedSamples) else PackedSamples(samples)
        self.imgsz = imgsz
        self.hyp = hyp
        self.nine = nine
        self.batch_shapes = batch_shapes
        self.batch_size = batch_size
        self.seed = seed
        self.published_pads = published_pads
        self._images = images or FileReader(self.samples, imgsz, augment=hyp is not None)

    def __len__(self) -> int:
        return len(self.samples)

    def shape(self, index: int) -> tuple[int, int]:
        """(h, w) of an item."""
        return (self.imgsz, self.imgsz) if self.batch_shapes is None else self.batch_shapes[index // self.batch_size]

    def __getitem__(self, key: Key) -> Item:
        """The item of (epoch, index), or of (epoch, index, number of the draw).

        Raises:
            UserError: If an image cannot be read.
        """
        return self.item(key)

    def item(self, key: Key, out: Image | None = None) -> Item:
        """The item of a key.

        Args:
            key: (epoch, index), or (epoch, index, number of the draw).
            out: uint8 (3, H, W) memory for the image.

        Raises:
            UserError: If an image cannot be read.
        """
        index = key[1]
        if self.hyp is None:
            image, objects, shape = self._plain(index, augment=False)
        else:
            image, objects = self._augmented(index, self.hyp, np.random.default_rng((self.seed, *key)))
            shape = ImageShape((image.shape[0], image.shape[1]))
        labels = objects.to_labels((image.shape[1], image.shape[0]))
        pixels = torch.from_numpy(to_chw_rgb(image, out))
        return Item(pixels, torch.from_numpy(labels), str(self.samples.path(index)), shape)

    def _augmented(self, index: int, hyp: AugmentationParameters, rng: Generator) -> tuple[Image, Objects]:
        if self.batch_shapes is None and rng.random() < hyp.mosaic:
            scene = self._mosaic(index, hyp, rng)
            if rng.random() < hyp.mixup:
                other = self._mosaic(int(rng.integers(len(self))), hyp, rng)
                scene = mixup(scene, other, rng)
        else:
            image, objects, _ = self._plain(index, augment=True)
            scene = random_affine(Canvas.of(image), objects, hyp, rng, (image.shape[0], image.shape[1]))
        image, objects = scene
        if installed():  # its random numbers are its own: without the package the others are the same
            image = apply_extra(image, rng.spawn(1)[0])
        return random_flip(jitter_colours(image, hyp, rng), objects, hyp, rng)

    def _mosaic(self, index: int, hyp: AugmentationParameters, rng: Generator) -> tuple[Image, Objects]:
        """The image and others drawn from all, in random places."""
        count, arrange = (9, mosaic9) if self.nine and rng.random() < self.nine else (4, mosaic)
        indices = rng.permutation((index, *rng.integers(len(self), size=count - 1))).tolist()
        canvas, objects = arrange([self._picture(i) for i in indices], self.imgsz, rng)
        canvas, objects = copy_paste(canvas, objects, hyp.copy_paste, rng)
        return random_affine(canvas, objects, hyp, rng, (self.imgsz, self.imgsz))

    def _picture(self, index: int) -> tuple[Picture, Objects]:
        """One resized image, to be read when it is needed, and its objects."""
        height, width = self._images.shape(index)
        objects = Objects.from_labels(*self.samples.objects(index), (width, height))
        return Picture((height, width), functools.partial(self._images, index)), objects

    def _plain(self, index: int, *, augment: bool) -> tuple[Image, Objects, ImageShape]:
        """One image, letterboxed; when not augmenting never enlarged beyond `imgsz`."""
        sample, resized = self.samples[index], self._images(index)
        image, ratio, half_pad = letterbox(resized, self.shape(index), auto=False, scale_up=augment)
        # What is left of the image in whole pixels, and where it really lies: the labels follow the pixels.
        width, height = round(resized.shape[1] * ratio[0]), round(resized.shape[0] * ratio[1])
        left, top = half_pad if self.published_pads else applied_pad(half_pad)
        objects = Objects.from_labels(sample.labels, sample.polygons, (width, height)).mapped((1, 1), (left, top))
        h, w = sample.shape
        return image, objects, ImageShape((h, w), (width / w, height / h), (left, top))


def rectangular_batches(
    samples: Sequence[Sample], *, imgsz: int, batch_size: int, stride: int, pad: float
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
