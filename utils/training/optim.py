"""The optimizer and its parameter groups."""

from collections import defaultdict
from typing import Any

import torch
from torch import nn

from utils.training.hyp import Hyp
from utils.training.schedule import Settings, step_size

_OFFSET_LAYER = "p_conv"


def parameter_groups(model: nn.Module, weight_decay: float, offset_lr: float = 1.0) -> list[dict[str, Any]]:
    """Divide the parameters of a model by how they are trained.

    Args:
        model: Any module; every parameter lands in exactly one group.
        weight_decay: L2 penalty of weights that are neither biases nor in a norm layer.
        offset_lr: Factor on the learning rate of the layers that predict AKConv's offsets.

    Returns:
        Groups in the order of the columns x/lr0, x/lr1, x/lr2 of results.csv: biases, decayed weights, norm weights;
        unless `offset_lr` is 1, followed by the biases and the weights of the offset layers. "kind" is "bias" or
        "weight", "lr_factor" multiplies the learning rate.
    """
    parts: dict[str, list[nn.Parameter]] = defaultdict(list)
    for path, module in model.named_modules():
        is_norm = "Norm" in type(module).__name__
        is_offset = offset_lr != 1 and path.rpartition(".")[2] == _OFFSET_LAYER
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                part = "bias"
            elif is_norm and name == "weight":
                part = "norm"
            else:
                part = "weight"
            parts[f"offset {part}" if is_offset else part].append(parameter)
    groups = [
        _group("bias", parts["bias"], 0.0),
        _group("weight", parts["weight"], weight_decay),
        _group("weight", parts["norm"], 0.0),
    ]
    if parts["offset weight"]:
        groups.append(_group("bias", parts["offset bias"], 0.0, offset_lr))
        groups.append(_group("weight", parts["offset weight"], weight_decay, offset_lr))
    return groups


def _group(kind: str, parameters: list[nn.Parameter], weight_decay: float, lr_factor: float = 1.0) -> dict[str, Any]:
    return {"params": parameters, "kind": kind, "weight_decay": weight_decay, "lr_factor": lr_factor}


def build_optimizer(model: nn.Module, name: str, hyp: Hyp, batch_size: int) -> torch.optim.Optimizer:
    """The optimizer of a training.

    Args:
        model: Its parameters, also frozen ones, are divided by `parameter_groups`; already on its device.
        name: SGD (with Nesterov momentum), Adam or AdamW.
        hyp: For lr0, momentum, weight_decay, nbs and offset_lr.
        batch_size: Images per batch; the decay is meant for hyp.nbs images per step and scaled to the real number.
    """
    decay = hyp.weight_decay * step_size(batch_size, hyp.nbs)
    groups = parameter_groups(model, decay, hyp.offset_lr)
    # The other kinds make a step with loss scaling wait for the GPU.
    fused = True if next(model.parameters()).is_cuda else None
    if name == "SGD":
        return torch.optim.SGD(groups, lr=hyp.lr0, momentum=hyp.momentum, nesterov=hyp.momentum > 0, fused=fused)
    kind = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[name]
    return kind(groups, lr=hyp.lr0, betas=(hyp.momentum, 0.999), fused=fused)


def apply_settings(optimizer: torch.optim.Optimizer, settings: Settings) -> None:
    """Set the learning rates, and where the optimizer has one the momentum, of the next step."""
    for group in optimizer.param_groups:
        lr = settings.bias_lr if group["kind"] == "bias" else settings.lr
        group["lr"] = lr * group["lr_factor"]
        if "momentum" in group:
            group["momentum"] = settings.momentum
