"""A training step must not ask the device how something came out: a GPU would have to be waited for."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models import Model
from utils.training.assign import assign_targets
from utils.training.ema import ModelEMA
from utils.training.hyp import Hyp
from utils.training.loss import DetectionLoss, LossGains, total_loss
from utils.training.optim import build_optimizer

ANSWERS = ("local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "unique", "equal")


class NoQuestions(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masks = [t for t in tree_leaves(args) if isinstance(t, torch.Tensor) and t.dtype in (torch.bool, torch.uint8)]
        asks = name.strip("_") in ANSWERS or (name.startswith(("index", "_index")) and masks)
        assert not asks, f"{name} needs an answer from the device"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("ask", [torch.sum, torch.Tensor.nonzero, lambda x: x[x > 0], lambda x: bool(x.sum() > 1)])
def test_the_guard_works(ask):
    with NoQuestions():
        if ask is torch.sum:
            ask(torch.ones(2))
        else:
            with pytest.raises(AssertionError, match="needs an answer"):
                ask(torch.ones(2))


def test_step_without_waiting():
    model = Model("yolov5n-ak3.yaml", nc=3).train()
    optimizer, ema = build_optimizer(model, "SGD", Hyp(), 2), ModelEMA(model)
    loss = DetectionLoss(model.head.anchors, 3, Hyp(cls_pw=0.7), LossGains(1, 1, 1))
    targets = torch.tensor([[0, 1, 0.4, 0.5, 0.2, 0.3], [1, 2, 0.6, 0.3, 0.5, 0.4]])
    images = torch.rand(2, 3, 64, 96)
    shapes = [(8, 12), (4, 6), (2, 3)]
    matches = assign_targets(targets, shapes, model.head.anchors, 4.0)
    assert sum(len(match.image) for match in matches) > 0
    before = model.state_dict()["model.1.p_conv.weight"].clone()
    with NoQuestions():
        total_loss(loss.compare(model(images), matches), 2).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        ema.update(model)
    assert not torch.equal(model.state_dict()["model.1.p_conv.weight"], before)
