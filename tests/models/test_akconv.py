import pytest
import torch

from models import AKConv, LDConv


def test_names_shapes_and_start():
    layer = AKConv(3, 8, 5, 2)
    assert LDConv is AKConv
    names = [n for n in layer.state_dict() if not n.startswith("conv.1.")]
    assert names == ["p_conv.weight", "p_conv.bias", "conv.0.weight"]
    assert layer.p_conv.weight.abs().max() == 0
    assert layer.p_conv.bias.abs().max() > 0
    assert AKConv(3, 8, 5, bias=True).state_dict()["conv.0.bias"].shape == (8,)


@pytest.mark.parametrize(("size", "stride"), [((7, 10), 2), ((1, 1), 1), ((8, 5), 3)])
def test_output_size(size, stride):
    out = AKConv(3, 4, 7, stride)(torch.rand(2, 3, *size))
    assert out.shape == (2, 4, (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1)


@pytest.mark.parametrize("capture", ["trace", "export"])
def test_a_layer_captured_without_gradients_has_them_when_called(capture):
    layer = AKConv(3, 4, 5, 2).eval()
    torch.nn.init.normal_(layer.p_conv.weight, std=0.1)
    x = torch.randn(2, 3, 9, 7)
    with torch.no_grad():
        captured = torch.jit.trace(layer, x) if capture == "trace" else torch.export.export(layer, (x,)).module()
    found = []
    for module in (layer, captured):
        module.zero_grad()
        leaf = x.clone().requires_grad_()
        module(leaf).square().sum().backward()
        found.append([leaf.grad, *(p.grad for _, p in sorted(module.named_parameters()))])
    torch.testing.assert_close(*found)


def test_a_layer_is_traced_where_gradients_are_recorded():
    layer = AKConv(3, 4, 5, 2).eval()
    x = torch.randn(1, 3, 9, 7)
    torch.testing.assert_close(torch.jit.trace(layer, x)(2 * x), layer(2 * x))


@pytest.mark.parametrize("numbers", [(0, 8, 5, 1), (8, -1, 5, 1), (8, 8, "5", 1), (8, 8, 5, 0), (8, 8, 5, (2, 2))])
def test_numbers_that_are_not_whole_or_too_small(numbers):
    with pytest.raises(ValueError, match=r"AKConv: (c1|c2|num_param|stride) is .* expected a whole number"):
        AKConv(*numbers)


def test_a_missing_batch_dimension_is_named():
    with pytest.raises(ValueError, match=r"\(3, 7, 5\).*x\[None\]"):
        AKConv(3, 4, 5, 2)(torch.rand(3, 7, 5))


def test_folding_keeps_the_function():
    layer = AKConv(4, 6, 5, 2, bias=True)
    torch.nn.init.normal_(layer.p_conv.weight, std=0.1)
    torch.nn.init.uniform_(layer.conv[1].running_mean, -1, 1)
    torch.nn.init.uniform_(layer.conv[1].running_var, 0.5, 2)
    x = torch.rand(2, 4, 9, 8)
    expected = layer.eval()(x)
    layer.fuse()
    layer.fuse()
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    assert "conv.1.weight" not in layer.state_dict()


def test_shape_stored_in_a_checkpoint_is_taken_over():
    layer = AKConv(3, 4, 3)
    state = AKConv(3, 4, 3).state_dict() | {"p_n": torch.tensor([0, 1, 2, 0, 5, 9]).view(1, 6, 1, 1)}
    layer.load_state_dict(state)
    assert layer.shape == ((0, 0), (1, 5), (2, 9))
    assert "p_n" in state


def test_channels_last_stays_channels_last():
    x = torch.rand(2, 16, 8, 8).to(memory_format=torch.channels_last)
    assert AKConv(16, 8, 5, 2).eval()(x).is_contiguous(memory_format=torch.channels_last)
