import functools
import hashlib
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.two_tensor import TwoTensor

from models.ops import BORDERS, akconv2d, initial_shape
from utils.files import PROGRAM_ROOT

PATHS = ("reference", "rows", "cpu", "grid", "deform")


def oracle(x, offset, weight, bias, stride, shape, border):
    """The definition of docs/akconv.md as nested loops over single numbers."""
    b, c, height, width = x.shape
    o, _, n, _ = weight.shape
    h, w = (height - 1) // stride + 1, (width - 1) // stride + 1
    points = initial_shape(n, shape)
    out = torch.zeros(b, o, h, w, dtype=x.dtype)

    def cell(image, channel, row, column):
        if 0 <= row < height and 0 <= column < width:
            return x[image, channel, row, column].item()
        return 0.0

    def sample(image, channel, p, q):
        factor = 1.0
        if border != "zeros":
            if border == "published":
                factor *= 2 if p < 0 or p >= height - 1 else 1
                factor *= 2 if q < 0 or q >= width - 1 else 1
            p, q = min(max(p, 0), height - 1), min(max(q, 0), width - 1)
        i, j = math.floor(p), math.floor(q)
        u, v = p - i, q - j
        return factor * (
            (1 - u) * (1 - v) * cell(image, channel, i, j)
            + (1 - u) * v * cell(image, channel, i, j + 1)
            + u * (1 - v) * cell(image, channel, i + 1, j)
            + u * v * cell(image, channel, i + 1, j + 1)
        )

    for image in range(b):
        for i in range(h):
            for j in range(w):
                for k, (row, column) in enumerate(points):
                    p = i * stride + row + offset[image, k, i, j].item()
                    q = j * stride + column + offset[image, n + k, i, j].item()
                    for channel in range(c):
                        out[image, :, i, j] += weight[:, channel, k, 0] * sample(image, channel, p, q)
    return out if bias is None else out + bias.view(-1, 1, 1)


def example(b=2, c=3, size=(7, 5), o=4, n=5, stride=2, spread=2.0, dtype=torch.float64, bias=True):
    height, width = size
    h, w = (height - 1) // stride + 1, (width - 1) // stride + 1
    x = torch.randn(b, c, height, width, dtype=dtype)
    offset = torch.randn(b, 2 * n, h, w, dtype=dtype) * spread
    weight = torch.randn(o, c, n, 1, dtype=dtype)
    return x, offset, weight, torch.randn(o, dtype=dtype) if bias else None


@pytest.mark.parametrize("impl", PATHS)
def test_hand_worked_case(impl):
    # 5 x 5 map of the numbers 0..24, two points at (0,0) and (1,0), stride 2, unit weights.
    x = torch.arange(25.0).view(1, 1, 5, 5)
    offset = torch.zeros(1, 4, 3, 3)
    offset[0, 2, 0, 0] = 0.5  # first point of the first cell half a pixel to the right
    out = akconv2d(x, offset, torch.ones(1, 1, 2, 1), stride=2, impl=impl)
    # Row 0: (0,0.5) = 0.5 and (1,0) = 5; columns 0 and 2 are inside, column 4 is the border and doubles.
    # Last row: point (4, .) is at the border (x2), point (5, .) is beyond it and clamped to row 4 (x2).
    expected = torch.tensor([[5.5, 9.0, 2 * (4.0 + 9)], [25, 29, 2 * (14.0 + 19)], [80, 88, 4 * (24.0 + 24)]])
    torch.testing.assert_close(out[0, 0], expected)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("impl", PATHS)
@pytest.mark.parametrize(
    ("size", "n", "stride", "shape"),
    [((7, 5), 5, 2, None), ((4, 9), 3, 1, "line"), ((6, 6), 5, 3, "cross"), ((1, 3), 2, 2, [(0, 1), (-1, 2.5)])],
)
def test_equals_the_definition(impl, border, size, n, stride, shape):
    x, offset, weight, bias = example(size=size, n=n, stride=stride)
    out = akconv2d(x, offset, weight, bias, stride=stride, shape=shape, border=border, impl=impl)
    torch.testing.assert_close(out, oracle(x, offset, weight, bias, stride, shape, border))


@settings(max_examples=25)
@given(
    b=st.integers(0, 2),
    c=st.integers(1, 5),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    n=st.integers(1, 8),
    stride=st.integers(1, 4),
    spread=st.sampled_from([0.0, 0.3, 5.0, 1e6]),
    border=st.sampled_from(BORDERS),
)
def test_paths_agree(b, c, height, width, n, stride, spread, border):
    x, offset, weight, bias = example(b, c, (height, width), 3, n, stride, spread)
    reference = akconv2d(x, offset, weight, bias, stride=stride, border=border, impl="reference")
    for impl in PATHS[1:]:
        if b == 0 and impl == "deform":
            continue  # torchvision's kernel does not take an empty batch
        out = akconv2d(x, offset, weight, bias, stride=stride, border=border, impl=impl)
        torch.testing.assert_close(out, reference)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("impl", PATHS)
def test_gradcheck(impl, border):
    # Stay off the integers, where the derivative in the offset jumps.
    x, offset, weight, bias = example(b=2, c=2, size=(5, 4), o=2, n=3)
    offset = offset.floor() + 0.2 + 0.6 * torch.rand_like(offset)
    inputs = [t.requires_grad_() for t in (x, offset, weight, bias)]
    assert torch.autograd.gradcheck(lambda *a: akconv2d(*a, stride=2, border=border, impl=impl), inputs)


@pytest.mark.parametrize("impl", ["reference", "rows", "cpu", "deform"])
def test_gradient_at_integers_and_at_the_border(impl):
    # The rule of the published code: forward difference inside, 0 included; zero where p < 0 or p >= size - 1.
    x = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64).view(1, 1, 4, 1).repeat(1, 1, 1, 4)
    offset = torch.zeros(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    akconv2d(x, offset, torch.ones(1, 1, 1, 1, dtype=torch.float64), impl=impl).sum().backward()
    assert offset.grad[0, 0, :, 0].tolist() == [1.0, 2.0, 4.0, 0.0]
    assert offset.grad[0, 1].abs().max() == 0


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("path", ["rows", "cpu"])
def test_gradients_equal_those_of_the_reference(path, batch):
    for border in BORDERS:
        inputs = example(b=batch, c=7, size=(9, 6), n=7, stride=2, spread=3.0)
        grads = []
        for impl in ("reference", path):
            leaves = [t.clone().requires_grad_() for t in inputs]
            out = akconv2d(*leaves, stride=2, border=border, impl=impl)
            grads.append(torch.autograd.grad(out.square().sum(), leaves))
        for expected, actual in zip(*grads, strict=True):
            torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(
    ("b", "c", "o", "n", "size", "stride"),
    [
        (1, 1, 1, 1, (60, 2), 1),
        (2, 16, 40, 1, (9, 7), 1),
        (3, 16, 32, 5, (13, 22), 1),
        (1, 40, 70, 3, (17, 35), 2),
        (2, 33, 9, 7, (31, 9), 1),
        (1, 250, 260, 5, (9, 14), 2),  # from here on so many weights that the backward pass keeps the samples
        (3, 256, 256, 5, (5, 6), 1),
        (1, 232, 201, 7, (27, 29), 1),
    ],
)
def test_compiled_loops_over_many_tiles(b, c, o, n, size, stride, border):
    # More cells than a tile has, channels that fill vectors and that do not.
    inputs = example(b, c, size, o, n, stride, 6.0)
    results = {}
    for impl, dtype in (("reference", torch.float64), ("reference", torch.float32), ("cpu", torch.float32)):
        leaves = [t.to(dtype).requires_grad_() for t in inputs]
        out = akconv2d(*leaves, stride=stride, border=border, impl=impl)
        results[impl, dtype] = out, *torch.autograd.grad(out.square().sum(), leaves)
    truth, plain, found = results.values()
    for t, p, f in zip(truth, plain, found, strict=True):
        # The rule for fast paths: an error may be twice that of plain PyTorch in the same type.
        assert (f - t).abs().max() <= 2 * (p - t).abs().max() + 1e-6 * t.abs().max()


@pytest.mark.parametrize(
    ("b", "c", "o", "n", "size"),
    [(1, 16, 8, 2, (640, 170)), (3, 48, 8, 1, (190, 180)), (1, 256, 16, 13, (12, 14)), (5, 256, 208, 5, (29, 27))],
    ids=["many cells", "several images", "many channels", "many weights"],
)
def test_long_sums_are_as_exact_as_those_of_the_reference(b, c, o, n, size):
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.rand(b, c, *size, generator=generator), torch.rand(o, c, n, 1, generator=generator)
    offset = (torch.randn(b, 2 * n, *size, generator=generator) * 64).round() / 64 + 1 / 128
    grad = torch.rand(b, o, *size, generator=generator)  # all positive: errors of a long sum do not cancel

    def compute(impl, dtype=torch.float32):
        leaf = weight.to(dtype, copy=True).requires_grad_()
        out = akconv2d(x.to(dtype), offset.to(dtype), leaf, border="clamp", impl=impl)
        return out.detach(), *torch.autograd.grad(out, leaf, grad.to(dtype))

    for exact, expected, found in zip(
        compute("reference", torch.float64), compute("reference"), compute("cpu"), strict=True
    ):
        allowed = 2 * (expected - exact).abs().max() + 1e-6 * exact.abs().max()
        assert (found - exact).abs().max() <= allowed


def test_changed_vectors_are_compiled_anew():
    # numba's cache of machine code knows when cpu_kernels.py has changed, but not what it imports.
    kernels = pytest.importorskip("models.ops.cpu_kernels", reason="numba is not installed")
    folder = Path(kernels.__file__).parent
    imported = "cpu_jit.py", "cpu_llvm.py", "cpu_products.py", "cpu_vectors.py", "taps.py"
    sources = b"".join((folder / name).read_bytes() for name in imported)
    assert hashlib.sha256(sources).hexdigest()[:16] == kernels.SOURCES, "write the new digest into cpu_kernels.py"


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def nan_in_new_memory():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("batch", [1, 3])
def test_any_number_of_threads_shares_the_gradients(threads, nan_in_new_memory, batch, border):
    inputs = example(b=batch, c=3, size=(11, 60), n=5, stride=1, spread=4.0)
    grads = {}
    for count in (1, 2, 4, 13):  # 13: more than share an image
        threads(count)
        leaves = [t.clone().requires_grad_() for t in inputs]
        out = akconv2d(*leaves, stride=1, border=border, impl="cpu")
        grads[count] = torch.autograd.grad(out.square().sum(), leaves)
    for expected, *others in zip(*grads.values(), strict=True):
        for actual in others:
            torch.testing.assert_close(actual, expected)


def test_any_number_of_threads_shares_many_weights(threads, nan_in_new_memory):
    inputs = example(b=3, c=256, size=(5, 7), o=105, n=5, stride=1, spread=4.0)
    grads = []
    for count in (1, 2, 4, 13):
        threads(count)
        leaves = [t.clone().requires_grad_() for t in inputs]
        grads.append(torch.autograd.grad(akconv2d(*leaves, stride=1, impl="cpu").square().sum(), leaves))
    for expected, *others in zip(*grads, strict=True):
        for actual in others:
            torch.testing.assert_close(actual, expected)


def test_positions_a_rounding_error_before_a_row():
    # Points a rounding error before a row still read the row above.
    start = 0.6
    x, weight = torch.randn(1, 8, 64, 48), torch.randn(4, 8, 1, 1)
    offset = torch.zeros(1, 2, 64, 48)
    offset[:, 0, 32] = torch.nextafter(torch.tensor(-start), torch.tensor(0.0))
    offset[:, 1] = 0.25
    grad = torch.zeros(1, 4, 64, 48)
    grad[:, :, 32] = 1
    found = {}
    for impl in ("reference", "cpu"):
        leaves = [t.clone().requires_grad_() for t in (x, offset, weight)]
        out = akconv2d(*leaves, impl=impl, shape=[(start, 0.0)])
        found[impl] = torch.autograd.grad(out, leaves, grad)
    for expected, actual in zip(found["reference"], found["cpu"], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


COMPARE = """
import torch
from models.ops import akconv2d
torch.set_num_threads(4)
leaves = [torch.randn(s, requires_grad=True) for s in ((1, 8, 20, 30), (1, 6, 20, 30), (4, 8, 3, 1))]
found = {}
for impl in ("reference", "cpu"):
    out = akconv2d(*leaves, impl=impl)
    found[impl] = out, *torch.autograd.grad(out.square().sum(), leaves)
for expected, actual in zip(*found.values()):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
"""


NO_CACHE = """
from numba.core.caching import CompileResultCacheImpl
CompileResultCacheImpl._locator_classes = []
"""


@pytest.mark.parametrize(
    ("before", "limits"), [("", {"OMP_THREAD_LIMIT": "2"}), (NO_CACHE, {})], ids=["threads", "folder"]
)
def test_a_process_with_fewer_threads_than_asked_for_or_no_folder_for_machine_code(before, limits):
    limited = {**os.environ, **limits}
    run = subprocess.run(
        [sys.executable, "-c", before + COMPARE], env=limited, capture_output=True, text=True, cwd=PROGRAM_ROOT
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("impl", PATHS)
@pytest.mark.parametrize("layout", ["channels-last", "strided", "expanded"])
def test_memory_layout_does_not_matter(layout, impl):
    x, offset, weight, bias = example(b=2, c=4, size=(8, 6), n=4, spread=1.0)
    if layout == "channels-last":
        inputs = *(t.to(memory_format=torch.channels_last) for t in (x, offset, weight)), bias
    elif layout == "strided":
        turned = [t.transpose(a, a + 1).contiguous().transpose(a, a + 1) for t, a in ((offset, 2), (weight, 1))]
        inputs = torch.stack((x, x), dim=-1)[..., 0], *turned, torch.stack((bias, bias), dim=-1)[:, 0]
    else:
        inputs = x[:1].expand(2, -1, -1, -1), offset, weight[:1].expand(4, -1, -1, -1), bias[:1].expand(4)
        x, offset, weight, bias = (t.contiguous() for t in inputs)
    expected = akconv2d(x, offset, weight, bias, stride=2, impl="reference")
    torch.testing.assert_close(akconv2d(*inputs, stride=2, impl=impl), expected)


@pytest.mark.parametrize("impl", PATHS)
def test_empty_batch(impl):
    x, offset, weight, bias = (t.requires_grad_() for t in example(b=0))
    out = akconv2d(x, offset, weight, bias, stride=2, impl=impl)
    assert out.shape == (0, 4, 4, 3)
    out.sum().backward()
    assert weight.grad.abs().max() == 0


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("impl", PATHS)
def test_nan_in_nan_out(impl, border):
    x, offset, weight, _ = example(size=(6, 6), n=3, spread=0.1, bias=False)
    offset[1, 0, 1, 1] = math.nan
    out = akconv2d(x, offset.requires_grad_(), weight, stride=2, border=border, impl=impl)
    assert out[1, :, 1, 1].isnan().all()
    assert out.isnan().sum() == weight.shape[0]
    out.sum().backward()
    for value in (math.inf, -math.inf, 1e30):
        offset = torch.full_like(offset, value)
        assert akconv2d(x, offset, weight, stride=2, border=border, impl=impl).isfinite().all()


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("impl", PATHS)
def test_a_confined_coordinate_has_no_gradient_whatever_the_other_is(impl, border):
    x, offset, weight, _ = example(n=1, bias=False)
    with torch.no_grad():
        offset[0, :, 1, 1] = torch.tensor([math.nan, 50.0])
        offset[1, :, 1, 1] = torch.tensor([-50.0, math.nan])
    akconv2d(x, offset.requires_grad_(), weight, stride=2, border=border, impl=impl).sum().backward()
    assert offset.grad[0, 1, 1, 1] == 0
    assert offset.grad[1, 0, 1, 1] == 0


def test_a_bias_of_another_type_is_named():
    x, offset, weight, bias = example()
    with pytest.raises(ValueError, match=r"the type of x, torch.float64; got torch.float64, torch.float32$"):
        akconv2d(x, offset, weight, bias.float(), stride=2)


@pytest.mark.parametrize("impl", ["reference", "rows", "cpu", "grid", "deform"])
def test_autocast_leaves_float64_alone(impl):
    tensors = [t.requires_grad_() for t in example()]
    out = akconv2d(*tensors, stride=2, impl=impl)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same = akconv2d(*tensors, stride=2, impl=impl)
    assert same.dtype == torch.float64
    assert torch.equal(same, out)
    for found, expected in zip(
        torch.autograd.grad(same.sum(), tensors), torch.autograd.grad(out.sum(), tensors), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("impl", ["rows", "cpu", "grid", "deform"])
def test_autocast_is_as_exact_as_plain_pytorch(impl, dtype):
    # A map so wide that coordinates would be wrong by pixels in these types.
    x, offset, weight, _ = example(1, 8, (3, 600), 16, 5, 1, 2.0, torch.float32, bias=False)
    truth = akconv2d(x, offset, weight, impl="reference")
    plain = akconv2d(x.to(dtype), offset, weight.to(dtype), impl="reference")
    with torch.autocast("cpu", dtype=dtype):
        out = akconv2d(x, offset, weight, impl=impl)
    assert out.dtype == dtype
    assert (out - truth).abs().max() <= 2 * (plain - truth).abs().max()


def test_autocast_backward_reaches_float32_parameters():
    x, offset, weight, bias = (t.requires_grad_() for t in example(dtype=torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = akconv2d(x, offset, weight, bias, stride=2)
    out.float().sum().backward()
    assert all(t.grad.dtype == torch.float32 and t.grad.isfinite().all() for t in (x, offset, weight, bias))


@pytest.mark.parametrize("path", ["rows", "cpu"])
def test_opcheck(path):
    flat = [v for point in initial_shape(3) for v in point]
    for with_bias, requires_grad in ((False, False), (False, True), (True, False), (True, True)):
        x, offset, weight, bias = example(b=2, c=3, size=(6, 5), n=3, dtype=torch.float32, bias=with_bias)
        inputs = [None if t is None else t.requires_grad_(requires_grad) for t in (x, offset, weight, bias)]
        torch.library.opcheck(getattr(torch.ops.akconv, path), (*inputs, 2, flat, "published"))
        if not requires_grad:
            torch.library.opcheck(getattr(torch.ops.akconv, f"{path}_forward").default, (*inputs, 2, flat, "published"))


@pytest.mark.parametrize("impl", PATHS)
def test_without_gradients_the_output_is_the_same(impl):
    inputs = [t.requires_grad_() for t in example(b=2, c=3, size=(9, 8), n=5)]
    expected = akconv2d(*inputs, stride=2, impl=impl)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            out = akconv2d(*inputs, stride=2, impl=impl)
        assert torch.equal(out, expected) and not out.requires_grad


@pytest.mark.parametrize("path", ["rows", "cpu"])
def test_gradients_have_the_layout_that_compilers_are_told(path):
    flat = [v for point in initial_shape(3) for v in point]
    for batch, channels in ((2, 3), (2, 16), (2, 24), (0, 5)):
        x, offset, weight, _ = example(b=batch, c=channels, size=(6, 5), n=3, dtype=torch.float32)
        weight = weight.to(memory_format=torch.channels_last)
        inputs = torch.randn(batch, 4, 3, 3), x, offset, weight, 2, flat, "published"
        for gradient in (getattr(torch.ops.akconv, f"{path}_{name}").default for name in ("backward", "gradients")):
            told = gradient(*(t.to("meta") if isinstance(t, torch.Tensor) else t for t in inputs))
            assert [t.stride() for t in gradient(*inputs)] == [t.stride() for t in told]
            if batch:
                torch.library.opcheck(gradient, inputs)
        captured = getattr(torch.ops.akconv, f"{path}_backward")(*inputs)
        assert captured[2].is_contiguous(), "graphs that PyTorch compiled earlier and kept expect this layout"


@pytest.mark.parametrize("path", ["rows", "cpu"])
def test_training_calls_plain_operators(path):
    inputs = [t.requires_grad_() for t in example(b=1, c=3, size=(6, 5), n=3)]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        akconv2d(*inputs, stride=2, impl=path).sum().backward()
    names = {event.name for event in profile.events() if "akconv::" in event.name}
    assert names == {f"akconv::{path}_forward", f"akconv::{path}_gradients"}


@pytest.mark.parametrize("path", ["rows", "cpu"])
def test_gradients_of_many_at_a_time(path):
    inputs = [t.requires_grad_() for t in example(b=1, c=3, size=(6, 5), n=3)]
    out = akconv2d(*inputs, stride=2, impl=path)
    grads = torch.randn(4, *out.shape, dtype=out.dtype)
    together = torch.autograd.grad(out, inputs, grads, retain_graph=True, is_grads_batched=True)
    for k, grad in enumerate(grads):
        expected = torch.autograd.grad(out, inputs, grad, retain_graph=True)
        for t, e in zip(together, expected, strict=True):
            torch.testing.assert_close(t[k], e)


@pytest.mark.parametrize("path", ["rows", "cpu"])
def test_tensors_whose_memory_holds_other_numbers(path):
    inputs = example(b=1, c=16, size=(6, 5), n=3)
    inputs = [t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for t in inputs]
    for k, negative in enumerate(torch._neg_view(t) for t in inputs):
        given = [*inputs[:k], negative, *inputs[k + 1 :]]
        assert negative.is_neg()
        results = []
        for call in (given, [t.resolve_neg() for t in given]):
            leaves = [t.detach().requires_grad_() for t in call]
            out = akconv2d(*leaves, stride=2, impl=path)
            results.append((out, *torch.autograd.grad(out, leaves, torch._neg_view(out.detach()))))
        torch.testing.assert_close(*results)
    none = torch._efficientzerotensor(len(inputs[2]), dtype=inputs[0].dtype)
    torch.testing.assert_close(
        akconv2d(*inputs[:3], none, stride=2, impl=path), akconv2d(*inputs[:3], stride=2, impl=path)
    )


@pytest.mark.parametrize("path", ["rows", "cpu"])
def test_tensors_of_other_classes_reach_the_operator(path):
    inputs = [TwoTensor(t, t.clone()).requires_grad_() for t in example(b=1, c=3, size=(6, 5), n=3)]
    out = akconv2d(*inputs, stride=2, impl=path)
    out.sum().backward()
    leaves = [t.a.detach().requires_grad_() for t in inputs]
    expected = akconv2d(*leaves, stride=2, impl=path)
    expected.sum().backward()
    assert torch.equal(out.b, expected)
    for t, leaf in zip(inputs, leaves, strict=True):
        torch.testing.assert_close(t.grad.b, leaf.grad)


def test_the_meta_device_has_shapes_only():
    inputs = [t.to("meta").requires_grad_() for t in example(b=2, c=3, size=(6, 5), n=3)]
    out = akconv2d(*inputs, stride=2)
    out.sum().backward()
    assert out.shape == (2, 4, 3, 3) and all(t.grad.shape == t.shape for t in inputs)


@pytest.mark.parametrize("path", ["rows", "cpu"])
def test_graphs_that_are_written_down_can_be_differentiated(path):
    x, offset, weight, _ = example(b=1, c=3, size=(6, 5), n=3)
    graph = make_fx(lambda weight: akconv2d(x, offset, weight, stride=2, impl=path))(weight)
    leaves = [weight.clone().requires_grad_() for _ in range(2)]
    akconv2d(x, offset, leaves[0], stride=2, impl=path).square().sum().backward()
    graph(leaves[1]).square().sum().backward()
    torch.testing.assert_close(leaves[1].grad, leaves[0].grad)


@pytest.mark.parametrize("path", ["rows", "cpu"])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_with_a_weight_that_learns(path):
    x, offset, weight, _ = example(b=2, c=3, size=(6, 5), n=3)
    leaves = [weight.clone().requires_grad_() for _ in range(2)]
    call = functools.partial(akconv2d, weight=leaves[0], stride=2, impl=path)
    torch.vmap(call)(x[:, None], offset[:, None]).square().sum().backward()
    akconv2d(x, offset, leaves[1], stride=2, impl=path).square().sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


@pytest.mark.parametrize("path", ["rows", "cpu"])
def test_fake_tensors_have_gradients(path):
    with FakeTensorMode() as mode:
        leaves = [mode.from_tensor(t).requires_grad_() for t in example(b=2, c=3, size=(6, 5), n=3)]
        akconv2d(*leaves, stride=2, impl=path).sum().backward()
        assert [t.grad.shape for t in leaves] == [t.shape for t in leaves]


def test_a_backward_pass_under_autocast_of_a_forward_pass_that_was_not():
    for path in ("rows", "cpu"):
        inputs = [t.requires_grad_() for t in example(b=1, c=3, size=(6, 5), n=3, dtype=torch.float32)]
        out = akconv2d(*inputs, stride=2, impl=path).sum()
        expected = torch.autograd.grad(out, inputs, retain_graph=True)
        with torch.autocast("cpu", torch.bfloat16):
            found = torch.autograd.grad(out, inputs)
        for f, e in zip(found, expected, strict=True):
            torch.testing.assert_close(f, e)


@pytest.mark.parametrize(("out", "function"), [(16, "differentiate"), (210, "differentiate_many")])
def test_samples_are_kept_where_weights_are_many(out, function, monkeypatch):
    calls = pytest.importorskip("models.ops.cpu_calls")
    called = []
    for name in ("differentiate", "differentiate_many"):
        compute = getattr(calls, name)
        monkeypatch.setattr(calls, name, lambda *a, n=name, compute=compute: called.append(n) or compute(*a))
    inputs = [t.requires_grad_() for t in example(b=1, c=256, size=(3, 4), o=out, n=5, dtype=torch.float32)]
    akconv2d(*inputs, stride=2, impl="cpu").sum().backward()
    assert called == [function]


def forward_mode(impl):
    x, offset, weight, bias = example()
    call = functools.partial(akconv2d, offset=offset, weight=weight, bias=bias, stride=2, impl=impl)
    return torch.func.jvp(call, (x,), (torch.ones_like(x),))[1]


@pytest.mark.parametrize("path", ["rows", "cpu", "deform"])
def test_forward_mode_is_refused_not_zero(path):
    with pytest.raises(ValueError, match="forward mode"):
        forward_mode(path)


@pytest.mark.parametrize("path", ["rows", "cpu", "deform"])
def test_derivatives_of_torch_func_are_refused(path):
    x, offset, weight, _ = example(b=2, c=3, size=(6, 5), n=3)

    def loss(weight, x=x, offset=offset):
        return akconv2d(x, offset, weight, stride=2, impl=path).square().sum()

    def loss_of_one(weight, x, offset):
        return loss(weight, x[None], offset[None])

    for call in (
        lambda: torch.func.grad(loss)(weight),
        lambda: torch.func.jacrev(loss)(weight),
        lambda: torch.vmap(torch.func.grad(loss_of_one), (None, 0, 0))(weight, x, offset),
        lambda: torch.func.grad(lambda w: torch.vmap(loss_of_one, (None, 0, 0))(w, x, offset).sum())(weight),
    ):
        with pytest.raises(ValueError, match=r"cannot be differentiated by torch\.func"):
            call()


def test_forward_mode_of_grid():
    torch.manual_seed(0)
    expected = forward_mode("reference")
    torch.manual_seed(0)
    try:
        found = forward_mode("grid")
    except NotImplementedError:
        pytest.skip(f"torch {torch.__version__} has no forward mode derivative of grid_sample")
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("impl", ["auto", "cpu", "grid"])
def test_compile_without_graph_breaks(impl, dynamic):
    torch.compiler.reset()

    def call(*args):
        return akconv2d(*args, stride=2, impl=impl)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size in (9, 8), (7, 12):
        inputs = [t.requires_grad_() for t in example(size=size, dtype=torch.float32)]
        expected = torch.autograd.grad(call(*inputs).sum(), inputs)
        actual = torch.autograd.grad(compiled(*inputs).sum(), inputs)
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile's default backend needs a C++ compiler")
def test_compile_with_the_default_backend():
    torch.compiler.reset()
    inputs = example(dtype=torch.float32)
    compiled = torch.compile(lambda *a: akconv2d(*a, stride=2), fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), akconv2d(*inputs, stride=2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, offset, weight: (x.numpy(), offset, weight), "must be tensors, got ndarray, Tensor, Tensor$"),
        (lambda x, offset, weight: (x, None, weight), "must be tensors, got Tensor, NoneType, Tensor$"),
        (lambda x, offset, weight: (x, offset.to("meta"), weight), "expected one device"),
        (lambda x, offset, weight: (x, offset, weight.float()), "must have the type of x"),
        (lambda x, offset, weight: (x.long(), offset, weight), "floating-point"),
        (lambda x, offset, weight: (x, offset.to(torch.float8_e5m2), weight), "16 bits or more"),
        (lambda x, offset, weight: (x, offset[:, 1:], weight), "offset is"),
        (lambda x, offset, weight: (x[:, :0], offset, weight[:, :0]), "only the batch may be empty"),
        (lambda x, offset, weight: (x, offset, weight[:0]), "only the batch may be empty"),
    ],
)
def test_inputs_that_do_not_fit(change, message):
    x, offset, weight, _ = example()
    with pytest.raises(ValueError, match=message):
        akconv2d(*change(x, offset, weight), stride=2)


@pytest.mark.parametrize("path", ["auto", "reference", "rows", "cpu"])
def test_export_for_any_number_of_images(path):
    class Layer(torch.nn.Module):
        def forward(self, x, offset, weight):
            return akconv2d(x, offset, weight, stride=2, impl=path)

    images = {0: torch.export.Dim("images", min=2, max=9)}
    example_inputs = example(b=2, dtype=torch.float32)[:3]
    program = torch.export.export(Layer(), example_inputs, dynamic_shapes=(images, images, {}))
    for batch in (2, 5):
        x, offset, weight, _ = example(b=batch, dtype=torch.float32)
        expected = akconv2d(x, offset, weight, stride=2, impl=path)
        torch.testing.assert_close(program.module()(x, offset, weight), expected)


@pytest.mark.parametrize("impl", PATHS)
def test_coordinates_have_the_type_of_the_input(impl):
    # A ten-millionth of a pixel before the border: float32 cannot tell it from the border, where a sample doubles.
    offset = torch.zeros(1, 2, 1, 9, dtype=torch.float64)
    offset[:, 1] = -1e-7
    for x_type, offset_type, at_border in (
        (torch.float64, torch.float64, 2),
        (torch.float64, torch.float32, 2),
        (torch.float32, torch.float64, 4),
        (torch.float32, torch.float16, 4),
    ):
        moved = offset.to(offset_type).requires_grad_()
        x, weight = torch.ones(1, 1, 1, 9, dtype=x_type), torch.ones(1, 1, 1, 1, dtype=x_type)
        out = akconv2d(x, moved, weight, impl=impl)
        assert out[0, 0, 0, -1].item() == pytest.approx(at_border)
        assert torch.autograd.grad(out.sum(), moved)[0].dtype == offset_type


@pytest.mark.parametrize("impl", PATHS)
def test_a_bias_that_is_not_contiguous(impl):
    x, offset, weight, _ = example()
    for bias in (torch.randn(4, 2, dtype=x.dtype)[:, 0], torch.randn(1, dtype=x.dtype).expand(4)):
        expected = akconv2d(x, offset, weight, bias.contiguous(), stride=2, impl="reference")
        torch.testing.assert_close(akconv2d(x, offset, weight, bias, stride=2, impl=impl), expected)


@pytest.mark.parametrize("impl", ["reference", "grid", "rows", "cpu"])
def test_second_derivatives_are_computed_or_refused(impl):
    x, offset, weight, _ = example()
    x.requires_grad_()
    offset.requires_grad_()
    out = akconv2d(x, offset, weight, stride=2, impl=impl)
    [first] = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    if impl in ("reference", "grid"):
        try:
            second = torch.autograd.grad(first.square().sum(), (x, offset))
        except RuntimeError as error:
            if impl == "reference" or "not implemented" not in str(error):
                raise
            pytest.skip(f"torch {torch.__version__} has no second derivative of grid_sample")
        assert all(g.isfinite().all() for g in second)
    else:
        with pytest.raises(ValueError, match=f"'{impl}' has no second derivatives; use impl='reference'"):
            torch.autograd.grad(first.square().sum(), (x, offset))


@pytest.mark.parametrize("impl", ["rows", "cpu"])
def test_a_tangent_of_the_gradient_is_refused(impl):
    x, offset, weight, _ = example()
    out = akconv2d(x.requires_grad_(), offset, weight, stride=2, impl=impl)
    with forward_ad.dual_level():
        grad = forward_ad.make_dual(torch.ones_like(out), torch.ones_like(out))
        with pytest.raises(ValueError, match="forward mode"):
            torch.autograd.grad(out, x, grad)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("impl", [path for path in PATHS if path != "cpu"])
def test_on_a_gpu(impl):
    inputs = example(b=2, c=16, size=(31, 20), n=5, dtype=torch.float32)
    expected = akconv2d(*inputs, stride=2, impl="reference")
    out = akconv2d(*(t.cuda() for t in inputs), stride=2, impl=impl)
    torch.testing.assert_close(out.cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"border": "mirror"}, "mirror.*published, clamp, zeros"),
        ({"impl": "magic"}, "magic.*reference"),
        ({"stride": 0}, "stride is 0"),
        ({"stride": 2.0}, r"stride is 2.0 \(float\), expected an int"),
        ({"stride": np.int64(2)}, r"stride is 2 \(int64\), expected an int"),
        ({"shape": "star"}, "star.*cross"),
        ({"shape": [(0, 0)]}, "1 points, but N is 5"),
        ({"stride": 1}, r"offset is \(2, 10, 4, 3\), expected \(2, 10, 7, 5\)"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    x, offset, weight, bias = example()
    with pytest.raises(ValueError, match=message):
        akconv2d(x, offset, weight, bias, **({"stride": 2} | change))


def test_wrong_channels_are_named():
    x, offset, weight, _ = example()
    with pytest.raises(ValueError, match="x has 2 channels, but weight expects 3"):
        akconv2d(x[:, :2], offset, weight, stride=2)
