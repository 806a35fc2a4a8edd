import itertools
import logging

import pytest
import torch
from torch import nn

from models import Model
from models.akconv import AKConv
from utils.training.offsets import OffsetMonitor


def layer(n=5, stride=2, offset=0.0, **settings):
    """A layer whose offsets are all the same."""
    akconv = AKConv(3, 4, n, stride, **settings).eval()
    nn.init.constant_(akconv.p_conv.bias, offset)
    return akconv


def watched(model, *images, batches=4):
    monitor = OffsetMonitor(batches=batches)
    with monitor.watch(model), torch.no_grad():
        for batch in images:
            model(batch)
    return monitor


def share_outside(akconv, offsets, height, width):
    """Written down position by position."""
    n, outside = akconv.num_param, []
    b, _, h, w = offsets.shape
    for image, i, j, k in itertools.product(range(b), range(h), range(w), range(n)):
        row, column = akconv.shape[k]
        y = akconv.stride * i + row + offsets[image, k, i, j].item()
        x = akconv.stride * j + column + offsets[image, n + k, i, j].item()
        outside.append(y < 0 or y > height - 1 or x < 0 or x > width - 1)
    return sum(outside) / len(outside)


@pytest.mark.parametrize(("n", "stride", "shape"), [(5, 2, None), (3, 1, "line"), (7, 3, "diagonal")])
def test_agrees_with_single_positions(n, stride, shape):
    akconv = layer(n, stride, shape=shape)
    nn.init.normal_(akconv.p_conv.weight, std=0.5)
    images = torch.randn(2, 3, 11, 8)
    offsets = akconv.p_conv(images).detach()
    values = watched(nn.Sequential(akconv), images).scalars()
    assert values["offsets/0/mean"] == pytest.approx(offsets.abs().mean().item(), rel=1e-5)
    assert values["offsets/0/max"] == pytest.approx(offsets.abs().max().item(), rel=1e-6)
    assert values["offsets/0/outside"] == pytest.approx(share_outside(akconv, offsets, 11, 8), abs=1e-6)


def test_several_batches_are_one_pass_and_later_ones_do_not_count():
    model = nn.Sequential(layer())
    quiet, loud = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    nn.init.constant_(model[0].p_conv.weight, 0.1)
    alone = watched(model, loud).scalars()
    both = watched(model, quiet, loud, 100 * loud, batches=2).scalars()
    assert both["offsets/0/max"] == alone["offsets/0/max"] > 0
    assert both["offsets/0/mean"] == pytest.approx(alone["offsets/0/mean"] / 2)


def test_a_new_pass_forgets_the_last_and_leaves_no_hooks():
    model = nn.Sequential(layer(offset=0.5))
    monitor = watched(model, torch.zeros(1, 3, 8, 8))
    assert monitor.scalars()["offsets/0/mean"] == 0.5
    assert not model[0].p_conv._forward_hooks
    nn.init.zeros_(model[0].p_conv.bias)
    model(torch.zeros(1, 3, 8, 8))
    assert monitor.scalars()["offsets/0/mean"] == 0.5  # not watching
    with monitor.watch(model):
        model(torch.zeros(1, 3, 8, 8))
    assert monitor.scalars()["offsets/0/mean"] == 0
    with pytest.raises(ZeroDivisionError), monitor.watch(model):
        raise ZeroDivisionError
    assert not model[0].p_conv._forward_hooks
    assert monitor.scalars() == {}


def test_layers_of_a_detector_in_half_precision():
    model = Model("yolov5n-ak3.yaml", nc=2).eval()
    monitor = OffsetMonitor()
    with monitor.watch(model), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(torch.rand(1, 3, 64, 96))
    values = monitor.scalars()
    layers = [name for name, module in model.named_modules() if isinstance(module, AKConv)]
    assert layers
    assert sorted(values) == sorted(f"offsets/{n}/{key}" for n in layers for key in ("mean", "max", "outside"))
    assert all(0 < values[f"offsets/{name}/mean"] < 1 for name in layers)


def test_a_model_without_such_layers():
    assert watched(Model("yolov5n.yaml", nc=2).eval(), torch.rand(1, 3, 64, 64)).scalars() == {}


def test_warns_once_when_offsets_run_away(caplog):
    caplog.set_level(logging.WARNING)
    model = nn.Sequential(layer(offset=-0.9), layer().requires_grad_(False)).eval()
    model[1].p_conv = nn.Conv2d(4, 10, 3, stride=2, padding=1)
    model[1].conv[0] = nn.Conv2d(4, 4, (5, 1), stride=(5, 1))
    nn.init.zeros_(model[1].p_conv.weight)
    monitor, images = OffsetMonitor(), torch.zeros(1, 3, 8, 8)
    with monitor.watch(model):
        model(images)
    assert monitor.scalars()["offsets/0/outside"] > 0.2  # by less than a pixel, at the border of a small map
    assert caplog.text == ""
    nn.init.constant_(model[1].p_conv.bias, 30.0)
    for _ in range(2):
        with monitor.watch(model):
            model(images)
        monitor.scalars()
    assert len(caplog.records) == 1
    assert "in layer 1 they carry 100 % of the sampling points" in caplog.text


def test_points_that_start_outside_have_not_run_away(caplog):
    caplog.set_level(logging.WARNING)
    values = watched(nn.Sequential(layer(13, 1, shape="line")), torch.zeros(1, 3, 6, 7)).scalars()
    assert values["offsets/0/outside"] > 0.5
    assert caplog.text == ""
