"""From --weights to something that detects: one model, several as one, with test-time augmentation, or an .onnx."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from models.augmented import Augmented
from models.ensemble import Ensemble
from models.loading import load_model
from models.model import Model
from models.onnx import OnnxModel
from utils.device import select_device
from utils.errors import UserError

InferenceModel = Model | Augmented | Ensemble | OnnxModel
"""All of them have names, nc, stride, a call and `decode`."""


def load_detector(
    weights: Sequence[str], *, device: str = "", half: bool = False, augment: bool = False, dnn: bool = False
) -> InferenceModel:
    """Read what --weights names.

    Args:
        weights: .pt files, or with `dnn` one .onnx file.
        device: Where .pt models are to live, see `select_device`.
        half: They are to compute in half precision.
        augment: Let each of them look at every image in three sizes.
        dnn: Let OpenCV compute the model, on the CPU.

    Returns:
        The model in evaluation mode, float32; `stride` tells its device.

    Raises:
        UserError: If a file cannot be read, the models know different classes, or the options do not go together.
    """
    _check(weights, device=device, augment=augment, dnn=dnn)
    chosen = torch.device("cpu") if dnn else select_device(device)
    if half and chosen.type != "cuda":
        raise UserError(f"--half needs a CUDA GPU, this run is on {chosen.type}; leave --half out")
    if dnn:
        return OnnxModel(Path(weights[0])).eval()
    models = [load_model(path, device=chosen) for path in weights]
    for path, model in zip(weights, models, strict=True):
        _check_same_classes(path, model.names, weights[0], models[0].names)
    members = [Augmented(model).eval() for model in models] if augment else models
    return members[0] if len(members) == 1 else Ensemble(members).eval()


def infer(model: InferenceModel, images: Tensor, *, half: bool = False) -> Tensor:
    """Find objects.

    Args:
        model: In evaluation mode.
        images: (B, 3, H, W) in [0, 1], on its device.
        half: Compute in half precision, where that is possible.

    Returns:
        (B, P, 5 + nc) float32: cx, cy, w, h in pixels, objectness, class probabilities.
    """
    with torch.autocast(images.device.type, torch.float16, enabled=half):
        raw = model(images)
    # Decoded in half precision, corners beyond 512 px would lie on a grid of half a pixel.
    return model.decode([level.float() for level in raw])


def warm_up(model: InferenceModel, shape: tuple[int, int], *, half: bool = False) -> None:
    """Run once on a GPU, where the first pass loads kernels and its time would distort figures.

    Args:
        model: In evaluation mode.
        shape: (h, w) of an image in pixels.
        half: As for `infer`.
    """
    if model.stride.device.type == "cuda":
        with torch.inference_mode():
            infer(model, torch.zeros(1, 3, *shape, device=model.stride.device), half=half)


def _check(weights: Sequence[str], *, device: str, augment: bool, dnn: bool) -> None:
    onnx = [path for path in weights if Path(path).suffix.lower() == ".onnx"]
    if onnx and not dnn:
        raise UserError(f"--weights {onnx[0]}: OpenCV computes .onnx files; add --dnn, or give a .pt file")
    if not dnn:
        return
    if not onnx:
        raise UserError(f"--dnn: computes .onnx files, found --weights {' '.join(weights)}; leave --dnn out")
    if len(weights) > 1:
        raise UserError(f"--dnn: computes one .onnx file, found --weights {' '.join(weights)}; give one")
    if augment:
        raise UserError("--augment: looks at images in several sizes, which needs .pt files; leave it out, or --dnn")
    if device not in ("", "cpu"):
        raise UserError(f"--device {device}: with --dnn, OpenCV computes on the CPU; leave --device out, or --dnn")


def _check_same_classes(path: str, names: dict[int, str], first_path: str, first: dict[int, str]) -> None:
    if len(names) != len(first):
        difference = f"{len(names)} classes and {len(first)}"
    elif different := [cls for cls in first if names[cls] != first[cls]]:
        cls = different[0]
        difference = f"class {cls} is {names[cls]!r} and {first[cls]!r}"
    else:
        return
    raise UserError(f"--weights: {path} and {first_path} know different classes ({difference}); give models of one set")
