"""Boxes as tensors: formats, overlap, and the way back from the network's input to the original image."""

import math
from typing import Literal

import torch
from torch import Tensor

IoUKind = Literal["iou", "giou", "diou", "ciou"]


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Corners of boxes given by centre and size.

    Args:
        boxes: (..., 4) cx, cy, w, h, any unit.

    Returns:
        (..., 4) x1, y1, x2, y2, same unit.
    """
    centre, half = boxes[..., :2], boxes[..., 2:4] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Centre and size of boxes given by their corners.

    Args:
        boxes: (..., 4) x1, y1, x2, y2, any unit.

    Returns:
        (..., 4) cx, cy, w, h, same unit.
    """
    low, high = boxes[..., :2], boxes[..., 2:4]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def clip_boxes(boxes_xyxy: Tensor, shape: tuple[int, int]) -> Tensor:
    """Boxes cut at the border of an image.

    Args:
        boxes_xyxy: (n, 4) pixels.
        shape: (h, w) of the image.
    """
    h, w = shape
    limit = boxes_xyxy.new_tensor((w, h, w, h))
    return torch.minimum(boxes_xyxy.clamp(min=0), limit)


def unletterbox(
    boxes_xyxy: Tensor,
    shape: tuple[int, int],
    ratio: tuple[float, float],
    pad: tuple[float, float],
) -> Tensor:
    """Boxes of the letterboxed network input in pixels of the original image, clipped to it.

    Args:
        boxes_xyxy: (n, 4) pixels of the network input.
        shape: (h, w) of the original image.
        ratio: (horizontal, vertical) factor by which the original was resized.
        pad: (left, top) padding in pixels of the network input.
    """
    left, top = pad
    boxes = boxes_xyxy - boxes_xyxy.new_tensor((left, top, left, top))
    return clip_boxes(boxes / boxes.new_tensor((*ratio, *ratio)), shape)


def letterbox_geometry(
    input_shape: tuple[int, int], shape: tuple[int, int]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The ratio and pad of an image that was fitted into `input_shape` and centred there.

    Args:
        input_shape: (h, w) of the network input.
        shape: (h, w) of the original image.

    Returns:
        `ratio` and `pad` for `unletterbox`.
    """
    gain = min(input_shape[0] / shape[0], input_shape[1] / shape[1])
    pad = (input_shape[1] - shape[1] * gain) / 2, (input_shape[0] - shape[0] * gain) / 2
    return (gain, gain), pad


def paired_iou(boxes1: Tensor, boxes2: Tensor, *, kind: IoUKind = "iou", eps: float = 1e-7) -> Tensor:
    """Overlap of the i-th box of one set with the i-th box of the other.

    Args:
        boxes1: (n, 4) centre and size, any unit; the prediction, if one is.
        boxes2: (n, 4), same format and unit.
        kind: "iou", "giou" (https://arxiv.org/abs/1902.09630), "diou" or "ciou" (https://arxiv.org/abs/1911.08287).
        eps: Keeps the quotient finite for boxes without area.

    Returns:
        (n,) in [0, 1] for "iou", down to about -1 for the others; differentiable in both inputs.

    Raises:
        ValueError: If the shapes differ or the last dimension is not 4.
    """
    if boxes1.shape != boxes2.shape or boxes1.shape[-1] != 4:
        raise ValueError(f"expected two (n, 4) tensors of one shape, got {tuple(boxes1.shape)}, {tuple(boxes2.shape)}")
    corners1, corners2 = cxcywh_to_xyxy(boxes1), cxcywh_to_xyxy(boxes2)
    size1, size2 = boxes1[..., 2:], boxes2[..., 2:]
    low = torch.maximum(corners1[..., :2], corners2[..., :2])
    high = torch.minimum(corners1[..., 2:], corners2[..., 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    union = size1.prod(-1) + size2.prod(-1) - inter + eps
    iou = inter / union
    if kind == "iou":
        return iou
    hull_low = torch.minimum(corners1[..., :2], corners2[..., :2])
    hull_high = torch.maximum(corners1[..., 2:], corners2[..., 2:])
    hull = hull_high - hull_low
    if kind == "giou":
        hull_area = hull.prod(-1) + eps
        return iou - (hull_area - union) / hull_area
    diagonal = hull.square().sum(-1) + eps
    distance = (boxes2[..., :2] - boxes1[..., :2]).square().sum(-1)
    if kind == "diou":
        return iou - distance / diagonal
    angle1 = torch.atan(size1[..., 0] / size1[..., 1])
    angle2 = torch.atan(size2[..., 0] / size2[..., 1])
    aspect = (4 / math.pi**2) * (angle2 - angle1).square()
    with torch.no_grad():
        alpha = aspect / (1 - iou + aspect + eps)
    return iou - (distance / diagonal + alpha * aspect)


def pairwise_iou(boxes1_xyxy: Tensor, boxes2_xyxy: Tensor, *, eps: float = 1e-7) -> Tensor:
    """Overlap of every box of one set with every box of the other.

    Args:
        boxes1_xyxy: (n, 4) corners, any unit.
        boxes2_xyxy: (m, 4) corners, same unit.
        eps: Keeps the quotient finite for boxes without area.

    Returns:
        (n, m) in [0, 1].
    """
    low = torch.maximum(boxes1_xyxy[:, None, :2], boxes2_xyxy[None, :, :2])  # (n, m, 2)
    high = torch.minimum(boxes1_xyxy[:, None, 2:], boxes2_xyxy[None, :, 2:])  # (n, m, 2)
    inter = (high - low).clamp(min=0).prod(-1)  # (n, m)
    area1 = (boxes1_xyxy[:, 2:] - boxes1_xyxy[:, :2]).prod(-1)  # (n,)
    area2 = (boxes2_xyxy[:, 2:] - boxes2_xyxy[:, :2]).prod(-1)  # (m,)
    return inter / (area1[:, None] + area2[None, :] - inter + eps)
