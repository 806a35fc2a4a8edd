"""Reading recordings and comparing with them."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def below(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with prefix, without it."""
    return {k.removeprefix(prefix): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}


def assert_near(actual: Tensor, expected: np.ndarray, tolerance: float) -> None:
    """Largest difference at most `tolerance` of the largest expected value."""
    wanted = torch.from_numpy(np.asarray(expected))
    assert actual.shape == wanted.shape
    if wanted.numel():
        difference = (actual.detach() - wanted).abs().max()
        assert difference <= tolerance * wanted.abs().max().clamp(min=1e-6), f"differs by {difference}"
