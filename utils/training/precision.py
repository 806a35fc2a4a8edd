"""Automatic mixed precision and compilation: how the network is computed, not what it computes."""

import logging
import shutil

import torch
from torch import nn

from utils.errors import UserError

log = logging.getLogger(__name__)

AMP = {"off": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""What --amp can name besides "auto", and the type that the network then computes in."""

_TOLERANCE = 0.1  # of the largest output, as a share


def check_precision(name: str, device: torch.device) -> None:
    """See that a device can compute in the type that --amp names.

    Raises:
        UserError: If it cannot.
    """
    if name == "fp16" and device.type != "cuda":
        raise UserError(f"--amp fp16 needs a CUDA GPU, this run is on {device.type}; use --amp bf16 or off")
    if name == "bf16" and device.type == "mps":
        raise UserError("--amp bf16 needs a CUDA GPU or a CPU, this run is on mps; use --amp off")


def choose_precision(name: str, model: nn.Module, device: torch.device) -> torch.dtype:
    """The type to compute in; float32 is none other than the weights have.

    Args:
        name: A key of `AMP`, or "auto": float16 on a CUDA GPU if the model computes nearly the same in it, else
            float32.
        model: On `device`.
        device: Where it is trained; see `check_precision`.
    """
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        if _agrees(model, device, torch.float16):
            return torch.float16
        log.warning("in float16 this model computes something else than in float32, so --amp is off")
        return torch.float32
    return AMP[name]


@torch.no_grad()
def _agrees(model: nn.Module, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether outputs for an image of noise are finite and nearly the same; no weights or statistics change."""
    noise = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)).to(device)
    training = model.training
    model.eval()
    exact = model(noise)
    with torch.autocast(device.type, dtype):
        mixed = model(noise)
    model.train(training)
    return all(
        bool((m.float() - e).abs().max() <= _TOLERANCE * e.abs().max().clamp(min=1))
        for m, e in zip(mixed, exact, strict=True)
    )


def compile_model(model: nn.Module, device: torch.device) -> None:
    """Have torch.compile translate the model on its first batch; names and weights stay as they are.

    Raises:
        UserError: If what the compiler needs is missing.
    """
    if device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise UserError(
            "--compile needs a C++ compiler on a CPU, and none was found; install g++ or leave --compile out"
        )
    log.info("compiling: the first step of each image size can take minutes")
    model.compile()
