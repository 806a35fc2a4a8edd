"""`--batch-size -1`: as many images as the memory holds."""

import copy
import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.memory import free_memory, peak_memory
from utils.training.loss import DetectionLoss, total_loss
from utils.training.seed import random_states, restore_random_states

log = logging.getLogger(__name__)

_SHARE = 0.8
"""Of the free memory; the rest is for the batches of the validation, images on their way and gaps between tensors."""
_TRIED = {"cuda": (1, 2, 4, 8, 16), "cpu": (1, 2, 4)}
_LARGEST = {"cuda": 1024, "cpu": 64}
"""A CPU gains nothing from more, and beyond 64 an optimizer step sees more images than the recipe is made for."""
_OBJECTS = 32
"""Per image: a mosaic of four images with the eight objects each that the head expects at first."""
_GIB = 2**30


def largest_batch(
    model: nn.Module,
    loss: DetectionLoss,
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    *,
    imgsz: int,
    device: torch.device,
    amp: torch.dtype,
) -> int:
    """How many images a training step can take, found by measuring steps with a few.

    The model, its gradients and all random numbers stay as they are.

    Args:
        model: On `device`; parameters that will be frozen already are.
        loss: Of its raw outputs.
        make_optimizer: Makes one for a model.
        imgsz: Largest side of the network input, pixels.
        device: A CUDA GPU or the CPU.
        amp: Type to compute in; float32 for none other than that of the weights.

    Returns:
        At least 1.

    Raises:
        UserError: If the device does not tell its memory, or one image is too much for it.
    """
    available = free_memory(device)
    states = random_states()
    try:
        taken = _measure(_Rehearsal(model, loss, make_optimizer, imgsz, device, amp), device, available)
    finally:
        restore_random_states(states)
    untried = [count for count in _TRIED[device.type] if count not in taken]
    most = untried[0] - 1 if untried else _LARGEST[device.type]
    count = min(fitting_count(taken, _SHARE * available), most)
    gib = ", ".join(f"{amount / _GIB:.2f}" for amount in taken.values()) or "more"
    if count < 1:
        raise UserError(
            f"--batch-size -1: a training step with one image at {imgsz} px takes {gib} GiB, but of the "
            f"{available / _GIB:.2f} GiB that are free {_SHARE:.0%} may be used; choose a smaller --imgsz or model, or "
            "free some memory"
        )
    log.info(
        "--batch-size -1: training steps with %s images at %d px take %s GiB; %.0f %% of the %.2f GiB that are free "
        "hold %d images",
        ", ".join(map(str, taken)),
        imgsz,
        gib,
        100 * _SHARE,
        available / _GIB,
        count,
    )
    return count


def fitting_count(taken: dict[int, int], budget: float) -> int:
    """How many images fit, by the line through the two largest numbers that were measured.

    Smaller numbers would mislead: with one image at 128 px it is not yet the images that take most (5.4 MB for the
    second, 6.3 MB for each later one).

    Args:
        taken: Number of images -> bytes, rising.
        budget: Bytes that may be used.

    Returns:
        0 or less if none do.
    """
    if not taken:
        return 0
    counts, amounts = list(taken), list(taken.values())
    slope = (amounts[-1] - amounts[-2]) / (counts[-1] - counts[-2]) if len(taken) > 1 else 0.0
    if slope <= 0:  # nothing is known but that so many take so much
        slope = amounts[-1] / counts[-1]
    return counts[-1] + math.floor((budget - amounts[-1]) / slope)


def _measure(rehearsal: "_Rehearsal", device: torch.device, available: int) -> dict[int, int]:
    """Number of images -> bytes of a step, until more would not fit."""
    taken: dict[int, int] = {}
    try:
        held = rehearsal.held_bytes()
        for count in _TRIED[device.type]:
            if taken and 2 * max(taken.values()) > available:  # a CPU would not fail, but begin to swap
                break
            images, targets = rehearsal.batch(count)
            taken[count] = held + peak_memory(lambda i=images, t=targets: rehearsal.step(i, t), device)  # type: ignore[misc]
    except torch.OutOfMemoryError:
        log.debug("out of memory after %s images", max(taken, default=0))
    return taken


class _Rehearsal:
    """Training steps of a copy of the model, which counts in place of the average that a training keeps."""

    def __init__(
        self,
        model: nn.Module,
        loss: DetectionLoss,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        imgsz: int,
        device: torch.device,
        amp: torch.dtype,
    ) -> None:
        self.model = copy.deepcopy(model).train()
        self.model.zero_grad()
        self.optimizer = make_optimizer(self.model)
        self.loss = loss
        self.imgsz = imgsz
        self.device = device
        self.autocast = torch.autocast(device.type, amp, enabled=amp != torch.float32)

    def held_bytes(self) -> int:
        """What stays between steps: weights, and what the optimizer makes at its first step."""
        self.step(*self.batch(1))
        memories = [value for memory in self.optimizer.state.values() for value in memory.values()]
        held = [*self.model.state_dict().values(), *(value for value in memories if isinstance(value, Tensor))]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Black images, and objects of all sizes, as (B, 3, H, W) in main memory and (T, 6)."""
        targets = torch.full((count, _OBJECTS, 6), 0.5)
        targets[..., 0] = torch.arange(count)[:, None]
        targets[..., 1] = 0
        targets[..., 4:] = torch.linspace(0.02, 0.6, _OBJECTS)[:, None]
        return torch.zeros(count, 3, self.imgsz, self.imgsz), targets.view(-1, 6)

    def step(self, images: Tensor, targets: Tensor) -> None:
        with self.autocast:
            raw = self.model(images.to(self.device, copy=True))
        total_loss(self.loss(raw, targets), len(images)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
