import math

import torch
from torch import nn

from utils.training.ema import ModelEMA


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("anchors", torch.tensor([0.1, 0.7, 1 / 3]))

    def forward(self, x):
        return self.norm(self.conv(x))


def test_decay_rises_from_nothing_to_its_limit():
    assert math.isclose(ModelEMA.decay(1), 0.9999 * (1 - math.exp(-1 / 2000)))
    assert ModelEMA.decay(1) < 0.001
    assert math.isclose(ModelEMA.decay(10**6), 0.9999)


def test_follows_the_formula():
    torch.manual_seed(0)
    net = Net()
    ema = ModelEMA(net)
    expected = {name: value.double().clone() for name, value in net.state_dict().items()}
    for update in range(1, 6):
        net(torch.randn(4, 2, 3, 5))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter))
        ema.update(net)
        d = 0.9999 * (1 - math.exp(-update / 2000))
        for name, value in net.state_dict().items():
            expected[name] = d * expected[name] + (1 - d) * value.double()
    assert ema.updates == 5
    for name in ("conv.weight", "conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"):
        torch.testing.assert_close(ema.model.state_dict()[name].double(), expected[name], atol=1e-6, rtol=1e-6)


def test_constants_are_copied_exactly():
    net = Net()
    ema = ModelEMA(net)
    net.anchors.mul_(3)
    net(torch.randn(4, 2, 3, 5))
    for _ in range(7):
        ema.update(net)
    assert torch.equal(ema.model.anchors, net.anchors)
    assert ema.model.norm.num_batches_tracked == 1


def test_the_copy_is_independent_and_ready_to_evaluate():
    net = Net()
    ema = ModelEMA(net)
    assert net.training
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())
    before = ema.model.conv.weight.clone()
    with torch.no_grad():
        net.conv.weight.add_(1)
    assert torch.equal(ema.model.conv.weight, before)
