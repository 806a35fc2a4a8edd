import pytest
import torch
from torch import nn

from utils.training.hyp import Hyp
from utils.training.optim import apply_settings, build_optimizer, parameter_groups
from utils.training.schedule import Settings


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.p_conv = nn.Conv2d(4, 10, 3)
        self.groups = nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(2))


def test_every_parameter_is_in_the_right_group():
    net = Net()
    bias, weight, norm = parameter_groups(net, 0.1)
    assert {id(p) for p in bias["params"]} == {
        id(p) for p in (net.norm.bias, net.p_conv.bias, net.groups.bias, net.head.bias)
    }
    assert {id(p) for p in weight["params"]} == {
        id(p) for p in (net.conv.weight, net.p_conv.weight, net.head.weight, net.scale)
    }
    assert {id(p) for p in norm["params"]} == {id(net.norm.weight), id(net.groups.weight)}
    assert [group["weight_decay"] for group in (bias, weight, norm)] == [0, 0.1, 0]


def test_offset_layers_get_groups_of_their_own():
    net = Net()
    groups = parameter_groups(net, 0.1, offset_lr=0.25)
    assert [(g["kind"], g["weight_decay"], g["lr_factor"]) for g in groups] == [
        ("bias", 0, 1),
        ("weight", 0.1, 1),
        ("weight", 0, 1),
        ("bias", 0, 0.25),
        ("weight", 0.1, 0.25),
    ]
    assert groups[3]["params"] == [net.p_conv.bias]
    assert [id(p) for p in groups[4]["params"]] == [id(net.p_conv.weight)]
    assert sum(len(g["params"]) for g in groups) == len(list(net.parameters()))


def test_offset_factor_without_offset_layers_changes_nothing():
    assert len(parameter_groups(nn.Linear(2, 3), 0.1, offset_lr=0.25)) == 3


@pytest.mark.parametrize(("name", "kind"), [("SGD", torch.optim.SGD), ("Adam", torch.optim.Adam)])
def test_settings_reach_the_optimizer(name, kind):
    optimizer = build_optimizer(Net(), name, Hyp(offset_lr=0.5), batch_size=16)
    assert type(optimizer) is kind
    apply_settings(optimizer, Settings(lr=0.2, bias_lr=0.4, momentum=0.6, accumulate=1))
    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.2, 0.2, 0.2, 0.1]
    if name == "SGD":
        assert all(group["momentum"] == 0.6 and group["nesterov"] for group in optimizer.param_groups)
    else:
        assert all(group["betas"] == (0.937, 0.999) for group in optimizer.param_groups)


@pytest.mark.parametrize(("batch_size", "factor"), [(16, 1), (24, 24 * 3 / 64), (128, 2), (1, 1)])
def test_weight_decay_follows_the_images_per_step(batch_size, factor):
    optimizer = build_optimizer(Net(), "AdamW", Hyp(weight_decay=0.01), batch_size)
    assert [g["weight_decay"] for g in optimizer.param_groups] == pytest.approx([0, 0.01 * factor, 0])


def test_a_model_without_norms_still_has_three_groups():
    assert len(build_optimizer(nn.Linear(2, 3), "SGD", Hyp(), 16).param_groups) == 3
