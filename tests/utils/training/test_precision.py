import pytest
import torch
from torch import nn

from utils.errors import UserError
from utils.training import precision
from utils.training.precision import check_precision, choose_precision, compile_model

CPU = torch.device("cpu")


class Net(nn.Module):
    """Gives levels like a detector; `scale` makes its outputs too large for float16."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=8)
        self.scale = scale

    def forward(self, x):
        return [self.conv(x) * self.scale]


def test_names():
    model = Net(1)
    assert choose_precision("auto", model, CPU) == choose_precision("off", model, CPU) == torch.float32
    assert choose_precision("bf16", model, CPU) == torch.bfloat16


@pytest.mark.parametrize(("name", "device"), [("fp16", "cpu"), ("fp16", "mps"), ("bf16", "mps")])
def test_types_that_a_device_cannot_compute_in(name, device):
    with pytest.raises(UserError, match=f"--amp {name} needs a CUDA GPU.*this run is on {device}"):
        check_precision(name, torch.device(device))


@pytest.mark.parametrize(("scale", "agrees"), [(1, True), (1e6, False)])
def test_a_model_that_float16_breaks_is_noticed(scale, agrees):
    model = Net(scale).train()
    assert precision._agrees(model, CPU, torch.float16) == agrees
    assert model.training


def test_compile_without_a_compiler(monkeypatch):
    monkeypatch.setattr(precision.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler"):
        compile_model(Net(1), CPU)
