import pytest
import torch
from torch import nn

from models import layers
from models.akconv import folded


def test_contract_order_is_row_then_column_then_channel():
    x = torch.arange(2 * 4 * 6.0).view(1, 2, 4, 6)
    out = layers.Contract(2)(x)
    for row in (0, 1):
        for column in (0, 1):
            for c in (0, 1):
                assert torch.equal(out[0, (row * 2 + column) * 2 + c], x[0, c, row::2, column::2])


def test_expand_order():
    x = torch.arange(8 * 2 * 3.0).view(1, 8, 2, 3)
    out = layers.Expand(2)(x)
    for row in (0, 1):
        for column in (0, 1):
            for c in (0, 1):
                assert torch.equal(out[0, c, row::2, column::2], x[0, (row * 2 + column) * 2 + c])


def test_mixconv_shares():
    assert [m.out_channels for m in layers.MixConv2d(8, 64, (3, 5, 7), equal_ch=False).m] == [41, 15, 8]
    assert [m.out_channels for m in layers.MixConv2d(8, 10, (1, 3, 5)).m] == [4, 3, 3]


@pytest.mark.parametrize(("k", "d", "expected"), [(3, 1, 1), (6, 1, 3), (3, 2, 2), ((1, 5), 1, (0, 2))])
def test_same_padding(k, d, expected):
    assert layers.same_padding(k, d) == expected


def test_ghost_bottleneck_with_stride_two():
    block = layers.GhostBottleneck(4, 8, 3, 2)
    assert block(torch.rand(2, 4, 6, 10)).shape == (2, 8, 3, 5)
    assert any(name.startswith("shortcut.1.conv") for name in block.state_dict())


def test_activation_argument():
    assert isinstance(layers.Conv(2, 3, act=False).act, nn.Identity)
    assert isinstance(layers.Conv(2, 3, act=nn.ReLU()).act, nn.ReLU)
    stack = nn.Sequential(layers.Conv(2, 3), layers.Conv(3, 2, act=nn.ReLU()))
    layers.set_activation(stack, nn.Hardswish())
    assert [type(m.act) for m in stack] == [nn.Hardswish, nn.ReLU]


def test_folding_keeps_the_function_and_detaches():
    conv, norm = nn.Conv2d(3, 5, 3, bias=True), nn.BatchNorm2d(5)
    nn.init.uniform_(norm.running_mean, -1, 1)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    x = torch.rand(2, 3, 6, 7)
    expected = norm.eval()(conv(x))
    conv.weight, conv.bias = folded(conv.weight, conv.bias, norm)
    torch.testing.assert_close(conv(x), expected, rtol=1e-5, atol=1e-5)
    assert not conv.weight.requires_grad and conv.weight.grad_fn is None


def test_folding_needs_running_statistics():
    with pytest.raises(ValueError, match="running statistics"):
        folded(torch.ones(2, 2), None, nn.BatchNorm2d(2, track_running_stats=False))
