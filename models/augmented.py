"""Test-time augmentation: what a model finds in three sizes of an image, one of them mirrored, taken together."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.model import Model

LARGE, MIDDLE, SMALL = 1.0, 0.83, 0.67
"""Sizes of the views, as factors; the middle one is mirrored left to right."""

_GREY = 0.447  # of the border, in 0..1


class Augmented(nn.Module):
    """A model that looks at every image three times.

    Attributes:
        model: The model behind it.
        names: Class index to name.
        nc: Number of classes.
    """

    def __init__(self, model: Model) -> None:
        """Wrap a model.

        Args:
            model: In evaluation mode.
        """
        super().__init__()
        self.model = model
        self.names, self.nc = model.names, model.nc

    @property
    def stride(self) -> Tensor:
        """(L,) input pixels per cell of each level."""
        return self.model.stride

    def forward(self, images: Tensor) -> list[Tensor]:
        """Predictions of each view.

        Small objects are not asked of the small view, large ones not of the large view: those leave out their finest
        and coarsest level.

        Args:
            images: (B, 3, H, W) in [0, 1]; H and W multiples of the largest stride.

        Returns:
            Three (B, P, 5 + nc): cx, cy, w, h in pixels of `images`, objectness, class probabilities.
        """
        large, middle, small = (self._levels(view) for view in self._views(images))
        if len(self.stride) > 1:
            large, small = large[:-1], small[1:]
        found = [torch.cat(levels, 1) for levels in (large, middle, small)]
        for predictions, scale in zip(found, (LARGE, MIDDLE, SMALL), strict=True):
            predictions[..., :4] /= scale
        found[1][..., 0] = images.shape[-1] - found[1][..., 0]
        return found

    def decode(self, raw: list[Tensor]) -> Tensor:
        """The predictions of all views, (B, P, 5 + nc)."""
        return torch.cat(raw, 1)

    def _views(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stride = int(self.stride.max())
        return images, _shrink(images.flip(3), MIDDLE, stride), _shrink(images, SMALL, stride)

    def _levels(self, images: Tensor) -> list[Tensor]:
        """L tensors (B, P, 5 + nc), float32."""
        raw = [level.float() for level in self.model(images)]  # decoded in float16, corners would lie on a coarse grid
        rows = [math.prod(level.shape[1:4]) for level in raw]
        return list(self.model.decode(raw).split(rows, 1))


def _shrink(images: Tensor, scale: float, stride: int) -> Tensor:
    """Smaller images, with a grey border on the right and below up to a multiple of the stride."""
    h, w = (side * scale for side in images.shape[-2:])
    small = F.interpolate(images, size=(int(h), int(w)), mode="bilinear", align_corners=False)
    right, below = (math.ceil(side / stride) * stride - int(side) for side in (w, h))
    return F.pad(small, (0, right, 0, below), value=_GREY)
