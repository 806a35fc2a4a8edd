"""Target assignment: which anchors of which cells learn which objects."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class LevelTargets:
    """The n matches of one detection level; row i of every field belongs to match i.

    Attributes:
        image, anchor, row, col: (n,) int64, index into the level's raw output (B, A, h, w, 5+nc).
        boxes: (n, 4) cx, cy relative to the corner of the cell, w, h; grid units.
        anchors: (n, 2) w, h of the matched anchor; grid units.
        classes: (n,) int64.
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    col: Tensor
    boxes: Tensor
    anchors: Tensor
    classes: Tensor

    def to(self, device: torch.device) -> "LevelTargets":
        """The same on another device, without waiting for it."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return LevelTargets(**{name: value.to(device, non_blocking=True) for name, value in fields.items()})


def assign_targets(
    targets: Tensor, grid_shapes: Sequence[tuple[int, int]], anchors: Tensor, anchor_t: float
) -> list[LevelTargets]:
    """Match targets with anchors by shape, and with the cell of their centre and its nearest neighbours.

    A target goes to every anchor whose sides differ from its own by a factor below `anchor_t`, on every level; there
    it takes the cell of its centre, and per axis the neighbour that is nearer than half a cell, if it is in the grid.
    A pair of cell and anchor may come several times; later rows take precedence.

    Args:
        targets: (T, 6) image, class, cx, cy, w, h; boxes as fractions of the network input.
        grid_shapes: (h, w) of each of the L levels.
        anchors: (L, A, 2) w, h in grid units.
        anchor_t: Largest factor, above 1.

    Returns:
        The matches of each level: first all centre cells, then all left, upper, right and lower neighbours; within
        each of these by anchor, then in the order of the targets.

    Source: behaviour of YOLOv5's target assignment.
    """
    return [
        _assign_level(targets, shape, level_anchors.to(targets), anchor_t)
        for shape, level_anchors in zip(grid_shapes, anchors, strict=True)
    ]


def _assign_level(targets: Tensor, shape: tuple[int, int], anchors: Tensor, anchor_t: float) -> LevelTargets:
    h, w = shape
    size = targets.new_tensor((w, h))
    boxes = targets[:, 2:6] * size.repeat(2)  # (T, 4)
    ratio = boxes[None, :, 2:] / anchors[:, None]  # (A, T, 2)
    fits = torch.maximum(ratio, 1 / ratio).amax(-1) < anchor_t  # (A, T)
    anchor, target = fits.nonzero(as_tuple=True)  # (m,) each

    centre = boxes[target, :2]  # (m, 2)
    from_end = size - centre
    before = (centre % 1 < 0.5) & (centre > 1)  # (m, 2): left, upper
    after = (from_end % 1 < 0.5) & (from_end > 1)  # (m, 2): right, lower
    taken = torch.cat((torch.ones_like(before[:, :1]), before, after), dim=1).T  # (5, m)
    side, match = taken.nonzero(as_tuple=True)  # (n,) each
    shifts = centre.new_tensor(((0, 0), (-0.5, 0), (0, -0.5), (0.5, 0), (0, 0.5)))
    last_cell = torch.tensor((w - 1, h - 1), device=targets.device)
    cell = torch.minimum((centre[match] + shifts[side]).long().clamp(min=0), last_cell)  # (n, 2)

    anchor, target = anchor[match], target[match]
    image, classes = targets[target, :2].long().unbind(1)
    return LevelTargets(
        image=image,
        anchor=anchor,
        row=cell[:, 1],
        col=cell[:, 0],
        boxes=torch.cat((centre[match] - cell, boxes[target, 2:]), dim=1),
        anchors=anchors[anchor],
        classes=classes,
    )
