"""The detection loss: boxes by CIoU, objectness and classes by binary cross-entropy."""

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.boxes import paired_iou
from utils.distributed import ALONE, World
from utils.training.assign import LevelTargets, assign_targets
from utils.training.hyp import Hyp

_BALANCE_OF_THREE = (4.0, 1.0, 0.4)
_BALANCE = (4.0, 1.0, 0.25, 0.06, 0.02)


@dataclasses.dataclass(frozen=True)
class LossGains:
    """Weights of the three parts of the loss."""

    box: float
    obj: float
    cls: float


def loss_gains(hyp: Hyp, *, nc: int, imgsz: int, levels: int) -> LossGains:
    """The gains of a hyperparameter file, fitted to the number of classes, the image size and the number of levels.

    Args:
        hyp: Hyperparameters, whose gains are meant for 80 classes, 640 px and 3 levels.
        nc: Number of classes.
        imgsz: Side of the network input, pixels.
        levels: Number of detection levels.
    """
    per_level = 3 / levels
    return LossGains(
        box=hyp.box * per_level,
        obj=hyp.obj * per_level * (imgsz / 640) ** 2,
        cls=hyp.cls * per_level * nc / 80,
    )


def total_loss(losses: dict[str, Tensor], batch_size: int | Tensor) -> Tensor:
    """What is differentiated: the sum of the parts, times the number of images, so that batches add up."""
    return (losses["box"] + losses["obj"] + losses["cls"]) * batch_size


class DetectionLoss:
    """Compares the raw outputs of the network with the targets.

    Source: behaviour of YOLOv5's loss; CIoU https://arxiv.org/abs/1911.08287, focal https://arxiv.org/abs/1708.02002.
    """

    def __init__(
        self,
        anchors: Tensor,
        nc: int,
        hyp: Hyp,
        gains: LossGains,
        *,
        label_smoothing: float = 0.0,
        world: World = ALONE,
    ) -> None:
        """Prepare for one model.

        Args:
            anchors: (L, A, 2) of the head, grid units.
            nc: Number of classes; with a single one there is no class loss.
            hyp: For anchor_t, the weights of positives and the focal gamma.
            gains: Weights of the parts, as given by `loss_gains`.
            label_smoothing: Share of certainty taken from the true class, 0..1.
            world: The processes that each see a part of a batch. Means are taken over the whole batch, so that the mean
                of the losses, and of their gradients, over the processes is what a single one would have.
        """
        self.anchors = anchors.cpu()
        self.nc = nc
        self.hyp = hyp
        self.gains = gains
        self.world = world
        self.positive, self.negative = 1 - label_smoothing / 2, label_smoothing / 2
        levels = len(anchors)
        self.balance = _BALANCE_OF_THREE if levels == 3 else _BALANCE[:levels]

    def __call__(self, raw: Sequence[Tensor], targets: Tensor, *, counts: bool = True) -> dict[str, Tensor]:
        """The weighted parts of the loss, as means, thus independent of the batch size.

        Args:
            raw: Per level (B, A, h, w, 5+nc) logits.
            targets: (T, 6) image, class, cx, cy, w, h; boxes as fractions of the network input. Best on the CPU: how
                many matches there are is a question that a GPU would have to be waited for.
            counts: Whether these images count; otherwise every part is zero, and only the other processes' count.

        Returns:
            "box", "obj" and "cls" as 0-d float32 tensors; differentiable.
        """
        shapes = [(level.shape[2], level.shape[3]) for level in raw]
        matches = assign_targets(targets, shapes, self.anchors.to(targets.device), self.hyp.anchor_t)
        return self.compare(raw, [match.to(raw[0].device) for match in matches], counts=counts)

    def compare(
        self, raw: Sequence[Tensor], matches: Sequence[LevelTargets], *, counts: bool = True
    ) -> dict[str, Tensor]:
        """The same for targets that are assigned already; nothing here waits for the device.

        Args:
            raw: Per level (B, A, h, w, 5+nc) logits.
            matches: Per level, on the same device.
            counts: Whether these images count.
        """
        raw = [level.float() for level in raw]  # half precision is too coarse for CIoU
        own = torch.tensor([len(raw[0]), *(len(match.image) for match in matches)], dtype=torch.float32) * counts
        images, *matched = self.world.total(own.to(raw[0].device, non_blocking=True)) / self.world.size
        zero = raw[0].new_zeros(())
        box, obj, cls = zero, zero, zero
        for logits, match, count, balance in zip(raw, matches, matched, self.balance, strict=True):
            chosen = logits[match.image, match.anchor, match.row, match.col]  # (n, 5+nc)
            overlap = paired_iou(decode_boxes(chosen, match.anchors), match.boxes, kind="ciou")
            share = 1 / count.clamp(min=1 / self.world.size)  # of one match
            box = box + (1 - overlap).sum() * share
            if self.nc > 1:
                cls = cls + self._entropy(chosen[:, 5:], self._class_targets(match), self.hyp.cls_pw) * share / self.nc
            wanted = _objectness_targets(logits[..., 4], match, overlap.detach().clamp(min=0))
            cells = logits[0, ..., 0].numel() * images
            obj = obj + balance * self._entropy(logits[..., 4], wanted, self.hyp.obj_pw) / cells
        gains = self.gains
        return {"box": box * gains.box * counts, "obj": obj * gains.obj * counts, "cls": cls * gains.cls * counts}

    def _class_targets(self, match: LevelTargets) -> Tensor:
        wanted = match.boxes.new_full((len(match.classes), self.nc), self.negative)
        return wanted.scatter_(1, match.classes[:, None], self.positive)

    def _entropy(self, logits: Tensor, wanted: Tensor, positive_weight: float) -> Tensor:
        weight = logits.new_full((), positive_weight)
        loss = F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weight, reduction="none")
        if self.hyp.fl_gamma > 0:
            p = logits.sigmoid()
            right = wanted * p + (1 - wanted) * (1 - p)
            loss = loss * (0.25 * wanted + 0.75 * (1 - wanted)) * (1 - right) ** self.hyp.fl_gamma
        return loss.sum()


def decode_boxes(logits: Tensor, anchors: Tensor) -> Tensor:
    """Boxes in the frame of `LevelTargets.boxes`.

    Args:
        logits: (n, 4 or more), the first four for x, y, w, h.
        anchors: (n, 2) w, h in grid units.

    Returns:
        (n, 4) cx, cy relative to the corner of the cell, w, h; grid units.
    """
    p = logits[:, :4].sigmoid() * 2
    return torch.cat((p[:, :2] - 0.5, p[:, 2:].square() * anchors), dim=1)


def _objectness_targets(logits: Tensor, match: LevelTargets, overlap: Tensor) -> Tensor:
    """Zeros shaped like `logits` (B, A, h, w), with the overlap where there is a match.

    Of several matches of one place the last counts. Writing them by index would leave that to chance on a GPU; the
    largest row number of each place does not depend on the order.
    """
    _, a, h, w = logits.shape
    place = ((match.image * a + match.anchor) * h + match.row) * w + match.col  # (n,)
    rows = torch.arange(len(place), device=place.device)
    last = place.new_full((logits.numel(),), -1).scatter_reduce_(0, place, rows, "amax")
    return torch.cat((overlap, overlap.new_zeros(1)))[last].view_as(logits)  # -1 takes the zero at the end
