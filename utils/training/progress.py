"""What an epoch shows while it runs, and the loss it had."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from utils.data.loader import Batch, DetectionLoader
from utils.errors import UserError

log = logging.getLogger(__name__)

LOSS_NAMES = ("box", "obj", "cls")
_HEADER = ("%11s" * 7) % ("Epoch", "GPU_mem", *(f"{name}_loss" for name in LOSS_NAMES), "Instances", "Size")
_SECONDS = 0.5
_MOST_NAMES = 16


class LossNotFinite(UserError):
    """The loss of a batch is infinite or no number, so nothing more can be learned."""


class EpochProgress:
    """The losses of the batches of an epoch, and its line on the console.

    Losses stay on the device: reading one waits for all work queued there. They are read for the console about twice a
    second, and then also checked.
    """

    def __init__(
        self, loader: DetectionLoader, device: torch.device, epoch: int, epochs: int, *, shown: bool = True
    ) -> None:
        """Print the header.

        Args:
            loader: The batches of the epoch.
            device: Where the losses are.
            epoch: From 0.
            epochs: Length of the training.
            shown: Whether the console shows the line.
        """
        self.loader = loader
        self.device = device
        self.epoch = epoch
        self.title = f"{epoch}/{epochs - 1}"
        self.losses = torch.zeros(len(loader), len(LOSS_NAMES), device=device)
        self.done = 0
        self._shown = 0.0
        self._checked = 0
        self._unchecked: list[list[str]] = []  # files of the batches since the losses were last checked
        log.info("\n%s", _HEADER)
        self._bar = tqdm(loader, total=len(loader), disable=not shown, bar_format="{desc} {bar:10}{r_bar}")

    def batches(self) -> Iterator[Batch]:
        """The batches, counted by the progress bar."""
        for batch in self._bar:
            self._unchecked.append(batch.paths)
            yield batch

    def add(self, losses: dict[str, Tensor], instances: int, size: int) -> None:
        """Take in what a batch gave.

        Args:
            losses: "box", "obj" and "cls", 0-d.
            instances: Number of targets in the batch.
            size: Width of the network input, pixels.

        Raises:
            LossNotFinite: Maybe some batches later.
        """
        self.losses[self.done] = torch.stack([losses[name].detach() for name in LOSS_NAMES])
        self.done += 1
        now = time.monotonic()
        if now - self._shown < _SECONDS and self.done < len(self.losses):
            return
        self._shown = now
        means = self.means()
        memory = torch.cuda.memory_reserved(self.device) / 1e9 if self.device.type == "cuda" else 0
        values = (*(means[name] for name in LOSS_NAMES), instances, size)
        self._bar.set_description(("%11s" * 2 + "%11.4g" * 5) % (self.title, f"{memory:.3g}G", *values), refresh=False)

    def means(self) -> dict[str, float]:
        """Mean losses of the batches so far.

        Raises:
            LossNotFinite: If one of them is not finite; names the batch and its files.
        """
        losses = self.losses[: self.done].cpu()
        finite = losses.isfinite().all(1)
        if not finite.all():
            batch = int(finite.long().argmin())
            raise LossNotFinite(self._complaint(batch, losses[batch].tolist()))
        self._unchecked = self._unchecked[len(losses) - self._checked :]
        self._checked = len(losses)
        return dict(zip(LOSS_NAMES, losses.mean(0).tolist(), strict=True))

    def _complaint(self, batch: int, losses: list[float]) -> str:
        parts = ", ".join(f"{name} {loss:g}" for name, loss in zip(LOSS_NAMES, losses, strict=True))
        files = [Path(path).name for path in self._unchecked[batch - self._checked]]
        more = f" and {len(files) - _MOST_NAMES} more" if len(files) > _MOST_NAMES else ""
        kept = "the checkpoints of earlier epochs are kept; " if self.epoch else ""
        return (
            f"the loss is not finite in epoch {self.epoch}, batch {batch} ({parts}), with "
            f"{', '.join(files[:_MOST_NAMES])}{more}; {kept}check these images and their labels, or lower lr0 or raise "
            "warmup_epochs in the hyperparameter file"
        )
