"""Images of few boxes, by hand and at random."""

import torch

from utils.evaluation.error_kinds import ErrorTable, error_table
from utils.evaluation.matching import GroundTruth
from utils.nms import Detections

A, B = 0, 1
BOX = (0.0, 0.0, 100.0, 40.0)


def part(share: float) -> tuple[float, float, float, float]:
    """A box that overlaps BOX by this much."""
    return (0.0, 0.0, 100.0 * share, 40.0)


def away(x: float) -> tuple[float, float, float, float]:
    return (x, 300.0, x + 50, 380.0)


def table(found: list[tuple[int, tuple[float, ...]]], labels: list[tuple[int, tuple[float, ...]]]) -> ErrorTable:
    """Detections and labels as (class, box); the first detection is the most confident."""
    return error_table(
        Detections(
            torch.tensor([box for _, box in found]).reshape(-1, 4),
            torch.linspace(0.9, 0.1, len(found)),
            torch.tensor([cls for cls, _ in found], dtype=torch.long),
        ),
        GroundTruth(
            torch.tensor([box for _, box in labels]).reshape(-1, 4),
            torch.tensor([cls for cls, _ in labels], dtype=torch.long),
        ),
    )


def random_image(seed: int, n: int, m: int) -> tuple[Detections, GroundTruth]:
    random = torch.Generator().manual_seed(seed)
    low = torch.rand(n + m, 2, generator=random) * 30
    boxes = torch.cat((low, low + 5 + torch.rand(n + m, 2, generator=random) * torch.tensor([40.0, 20.0])), 1)
    cls = torch.randint(0, 3, (n + m,), generator=random)
    conf = torch.rand(n, generator=random).sort(descending=True).values
    return Detections(boxes[:n], conf, cls[:n]), GroundTruth(boxes[n:], cls[n:])
