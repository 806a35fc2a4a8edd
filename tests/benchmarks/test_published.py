import pytest
import torch

from benchmarks.akconv_cases import Case, check, layers_of, prepare
from benchmarks.published import published
from models.ops import akconv2d
from utils.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize("spread", [0.0, 1.0, 50.0])
@pytest.mark.parametrize(
    ("shape", "n", "stride"), [((2, 3, 7, 5), 5, 2), ((1, 4, 9, 6), 3, 1), ((2, 2, 1, 3), 2, 3), ((1, 3, 8, 6), 13, 2)]
)
def test_the_published_way_equals_the_reference(shape, n, stride, spread):
    b, c, height, width = shape
    h, w = (height - 1) // stride + 1, (width - 1) // stride + 1
    inputs = (
        torch.randn(shape, dtype=torch.float64),
        torch.randn(b, 2 * n, h, w, dtype=torch.float64) * spread,  # 0: all positions at integers and borders
        torch.randn(4, c, n, 1, dtype=torch.float64),
    )
    results = []
    for op in (published, lambda *leaves, stride: akconv2d(*leaves, stride=stride, impl="reference")):
        leaves = [t.clone().requires_grad_() for t in inputs]
        out = op(*leaves, stride=stride)
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_the_published_way_keeps_an_index_for_every_channel():
    # What makes it costly, and must not be lost by improving the baseline: 4 int64 of B * C * h * w * N.
    saved = []
    case = Case("", channels=6, height=9, width=7, out=4, stride=2, n=3)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        call = prepare("published", case, CPU)
        call.compute(*call.leaves)
    indices = [t for t in saved if t.dtype == torch.int64]
    assert [t.untyped_storage().nbytes() for t in indices] == [8 * 2 * 6 * 5 * 4 * 3] * 4


def test_layers_of_a_model():
    layers = layers_of("yolov5n", 640)
    assert layers[0] == Case("yolov5n.1", channels=16, height=320, width=320, out=32, stride=2)
    assert [(case.layer, case.channels, case.height, case.out) for case in layers[1:]] == [
        ("yolov5n.3", 32, 160, 64),
        ("yolov5n.5", 64, 80, 128),
        ("yolov5n.7", 128, 40, 256),
        ("yolov5n.18", 64, 80, 64),
        ("yolov5n.21", 128, 40, 128),
    ]


def test_a_wrong_provider_is_found(monkeypatch):
    case = Case("", channels=3, height=9, width=7, out=4, stride=2, n=3)
    check(["published", "rows"], case, CPU)
    monkeypatch.setattr("benchmarks.akconv_cases.published", lambda *a, stride: published(*a, stride=stride) * 1.0001)
    with pytest.raises(UserError, match=r"published at .*error of the output"):
        check(["published", "rows"], case, CPU)


def test_all_providers_compute_with_the_same_numbers():
    case = Case("", channels=3, height=9, width=7, out=4, stride=2, n=3, spread=2.0)
    ours, theirs = prepare("rows", case, CPU), prepare("published", case, CPU)
    for a, b in zip(ours.leaves, theirs.leaves, strict=True):
        assert torch.equal(a, b)
    offset = ours.leaves[1] * 128
    assert torch.equal(offset, offset.round())
    assert (offset % 2 == 1).all()
    assert prepare("conv", case, CPU).forward().shape == prepare("layer", case, CPU).forward().shape == ours.grad.shape
