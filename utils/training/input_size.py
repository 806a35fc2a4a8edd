"""The size of the network input."""

import logging
import math
import random

import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)


def fitting_size(imgsz: int, stride: int) -> int:
    """The size wished for, rounded up to what the network can take: a multiple of its stride, at least two of them.

    Args:
        imgsz: Wished, pixels.
        stride: Largest number of input pixels per cell.
    """
    size = max(math.ceil(imgsz / stride), 2) * stride
    if size != imgsz:
        log.info("--imgsz %d: using %d, a multiple of the stride %d", imgsz, size, stride)
    return size


def resize_randomly(images: Tensor, stride: int) -> Tensor:
    """Resize a batch to a random size, half to one and a half of its own, but at least two cells.

    Args:
        images: (B, 3, H, W) float.
        stride: Sides become multiples of it.
    """
    h, w = images.shape[-2:]
    nominal = max(h, w)
    size = random.randrange(int(nominal * 0.5), int(nominal * 1.5) + stride) // stride * stride
    scale = max(size, 2 * stride) / nominal  # BatchNorm cannot learn from a single cell
    shape = [math.ceil(side * scale / stride) * stride for side in (h, w)]
    return images if shape == [h, w] else F.interpolate(images, shape, mode="bilinear", align_corners=False)
