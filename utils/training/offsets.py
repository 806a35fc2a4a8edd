"""Where AKConv layers look: how far their offsets reach, and a warning when they run away."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

_ATTRIBUTES = ("p_conv", "num_param", "stride", "shape")
_RUN_AWAY = 0.1
"""Share of a layer's sampling points outside the map whose offset is larger than a pixel. The gradient of an offset is
zero there, so they cannot learn to come back. Measured after 5 to 30 epochs: at most 0.05 in six trainings, but 0.19
with AdamW at four times a good learning rate."""
_KEYS = ("mean", "max", "outside")


class OffsetMonitor:
    """Statistics of the offsets of every AKConv layer, over the first batches of a pass.

    They are collected on the device by hooks that exist only during the pass, and read once after it, so no step has
    to wait. A layer is recognised by what it has: `p_conv`, which gives the offsets, `num_param`, `stride`, `shape`.
    """

    def __init__(self, *, batches: int = 4) -> None:
        """Start without statistics.

        Args:
            batches: How many of a pass are looked at.
        """
        self.batches = batches
        self._seen: dict[str, list[Tensor]] = {}
        self._warned = False

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Look at the offsets of all batches that go through the model meanwhile, up to the number wished for.

        Args:
            model: Not compiled, as compiled code does not run hooks; for example the average, when it is evaluated.
        """
        layers = {name: module for name, module in model.named_modules() if _is_akconv(module)}
        self._seen = {name: [] for name in layers}
        hooks = [layer.p_conv.register_forward_hook(self._hook(name, layer)) for name, layer in layers.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def scalars(self) -> dict[str, float]:
        """What the last pass showed; warns once in a training when offsets have run away.

        Returns:
            For each layer "offsets/<layer>/mean" and ".../max" of the absolute offsets, in pixels of the layer's input,
            and ".../outside", the share of sampling positions outside the map; nothing if nothing was seen.
        """
        values: dict[str, float] = {}
        away: dict[str, float] = {}
        for name, seen in self._seen.items():
            if seen:
                table = torch.stack(seen).cpu()
                mean, largest, outside, away[name] = table.mean(0).tolist()
                largest = table[:, 1].max().item()
                values |= {f"offsets/{name}/{key}": v for key, v in zip(_KEYS, (mean, largest, outside), strict=True)}
        self._warn(away)
        return values

    def _warn(self, away: dict[str, float]) -> None:
        worst = max(away, key=away.__getitem__, default="")
        if worst and away[worst] > _RUN_AWAY and not self._warned:
            self._warned = True
            log.warning(
                "offsets run away: in layer %s they carry %.0f %% of the sampling points out of the map, where they "
                "cannot learn to come back (usual are less than 5 %%); lower offset_lr or lr0 in the hyperparameter "
                "file; this is said only once",
                worst,
                100 * away[worst],
            )

    def _hook(self, name: str, layer: Any) -> Any:
        def look(_: nn.Module, inputs: tuple[Tensor], offsets: Tensor) -> None:
            if len(self._seen[name]) < self.batches:
                self._seen[name].append(_statistics(offsets.detach().float(), inputs[0].shape[-2:], layer))

        return look


def _is_akconv(module: nn.Module) -> bool:
    return all(hasattr(module, name) for name in _ATTRIBUTES)


@torch.no_grad()
def _statistics(offsets: Tensor, size: torch.Size, layer: Any) -> Tensor:
    """Mean, largest, share outside and share that ran away, of offsets (B, 2N, h, w) on a map of this (H, W)."""
    b, _, h, w = offsets.shape
    starts = torch.tensor(layer.shape, device=offsets.device).T.reshape(2, -1, 1, 1)  # (2, N, 1, 1)
    cells = (torch.arange(h).view(h, 1), torch.arange(w).view(1, w))
    outside, away = [], []
    for start, cell, offset, length in zip(starts, cells, offsets.view(b, 2, -1, h, w).unbind(1), size, strict=True):
        position = start + layer.stride * cell.to(offsets.device) + offset  # (B, N, h, w)
        outside.append((position < 0) | (position > length - 1))
        away.append(outside[-1] & (offset.abs() > 1))
    shares = [(rows | columns).float().mean() for rows, columns in (outside, away)]
    return torch.stack([offsets.abs().mean(), offsets.abs().max(), *shares])
