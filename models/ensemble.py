"""Several models as one: all their predictions enter one suppression."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.augmented import Augmented
from models.model import Model


class Ensemble(nn.Module):
    """Models of the same classes, side by side.

    Attributes:
        members: The models.
        names: Class index to name.
        nc: Number of classes.
    """

    stride: Tensor

    def __init__(self, members: Sequence[Model | Augmented]) -> None:
        """Put models side by side.

        Args:
            members: At least one, on one device, in evaluation mode, with equal names.
        """
        super().__init__()
        self.members: Sequence[Model | Augmented] = nn.ModuleList(members)  # type: ignore[assignment]
        self.names, self.nc = members[0].names, members[0].nc
        self.register_buffer("stride", max((member.stride for member in members), key=lambda stride: stride.max()))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Predictions of each member.

        Args:
            images: (B, 3, H, W) in [0, 1]; H and W multiples of the largest stride.

        Returns:
            One (B, P, 5 + nc) for each member: cx, cy, w, h in pixels, objectness, class probabilities.
        """
        # Decoded in float16, corners would lie on a coarse grid.
        return [member.decode([level.float() for level in member(images)]) for member in self.members]

    def decode(self, raw: list[Tensor]) -> Tensor:
        """The predictions of all members, (B, P, 5 + nc)."""
        return torch.cat(raw, 1)
