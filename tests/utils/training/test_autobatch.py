import copy
import functools
import logging
import random

import numpy as np
import pytest
import torch
from torch import nn

from models import Model
from utils.errors import UserError
from utils.memory import peak_memory
from utils.training import autobatch
from utils.training.autobatch import fitting_count, largest_batch
from utils.training.ema import ModelEMA
from utils.training.hyp import Hyp
from utils.training.loss import DetectionLoss, LossGains, total_loss
from utils.training.optim import build_optimizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return Model("yolov5n-ak3.yaml", nc=3)


def find(model, imgsz=64, optimizer="SGD"):
    loss = DetectionLoss(model.head.anchors, 3, Hyp(), LossGains(1, 1, 1))
    make = functools.partial(build_optimizer, name=optimizer, hyp=Hyp(), batch_size=16)
    return largest_batch(model, loss, make, imgsz=imgsz, device=CPU, amp=torch.float32)


def free(monkeypatch, amount):
    monkeypatch.setattr(autobatch, "free_memory", lambda device: amount)


def real_peak(model, count, imgsz, optimizer):
    """Bytes that a training takes besides the model itself, written down anew."""
    loss = DetectionLoss(model.head.anchors, 3, Hyp(), LossGains(1, 1, 1))
    targets = torch.tensor([[i, 0, 0.5, 0.5, 0.3, 0.2] for i in range(count)])

    def train():
        average = ModelEMA(model)
        steps = build_optimizer(model, optimizer, Hyp(), 16)
        for _ in range(2):
            total_loss(loss(model(torch.rand(count, 3, imgsz, imgsz)), targets), count).backward()
            steps.step()
            steps.zero_grad()
            average.update(model)

    return peak_memory(train, CPU)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_the_batch_fits_and_uses_most_of_what_is_allowed(model, monkeypatch, optimizer):
    amount = 300 * 2**20
    free(monkeypatch, amount)
    count = find(model, imgsz=128, optimizer=optimizer)
    assert 4 < count < 64
    peak = real_peak(copy.deepcopy(model), count, 128, optimizer)
    assert 0.9 * autobatch._SHARE * amount < peak < autobatch._SHARE * amount * 1.01


def test_nothing_changes(model, monkeypatch):
    free(monkeypatch, 2**40)
    model.eval()
    model.model[1].train()
    weight = next(model.parameters())
    weight.grad = torch.ones_like(weight)
    before = copy.deepcopy(model.state_dict())
    drawn = model.register_forward_hook(lambda *_: (torch.rand(1), np.random.rand(1), random.random(), None)[-1])
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert find(model) == 64
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert [p for p in model.parameters() if p.grad is not None] == [weight]
    assert (model.training, model.model[1].training) == (False, True)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    weight.grad = None
    drawn.remove()


def test_one_line_says_what_was_measured(model, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    free(monkeypatch, 2**40)
    find(model)
    assert len(caplog.records) == 1
    assert "training steps with 1, 2, 4 images at 64 px take 0.0" in caplog.text
    assert "80 % of the 1024.00 GiB that are free hold 64 images" in caplog.text


def test_too_little_memory(model, monkeypatch):
    free(monkeypatch, 10 * 2**20)
    with pytest.raises(UserError, match=r"one image at 64 px takes 0\.0\d GiB, but of the 0\.01 GiB that"):
        find(model)


def measured(monkeypatch, amounts, available):
    """Steps with 1, 2, 4, ... images take these bytes; None stands for out of memory."""
    tried = iter(amounts)

    def peak(call, device):
        amount = next(tried)
        if amount is None:
            raise torch.OutOfMemoryError
        return amount

    monkeypatch.setattr(autobatch, "peak_memory", peak)
    monkeypatch.setattr(autobatch._Rehearsal, "held_bytes", lambda self: 0)
    monkeypatch.setattr(autobatch, "_TRIED", {"cpu": (1, 2, 4, 8)})
    free(monkeypatch, available)
    return largest_batch(
        nn.Linear(1, 1), None, lambda m: torch.optim.SGD(m.parameters()), imgsz=32, device=CPU, amp=torch.float32
    )


def test_out_of_memory_bounds_the_batch(monkeypatch):
    assert measured(monkeypatch, [100, 110, None], 10_000) == 3
    with pytest.raises(UserError, match="takes more GiB"):
        measured(monkeypatch, [None], 10_000)


def test_stops_before_memory_runs_out(monkeypatch):
    assert measured(monkeypatch, [200, 300, 500], 900) == 6  # 8 images might take 1000


def test_line():
    assert fitting_count({1: 100, 2: 200, 4: 300}, 1000) == 18
    assert fitting_count({1: 150, 2: 200, 4: 300}, 149) == 0
    assert fitting_count({1: 150, 2: 150, 4: 140}, 700) == 20  # a line through nothing would rise for ever
    assert fitting_count({1: 100}, 250) == 2
    assert fitting_count({}, 1000) == 0
