"""The Triton kernels: their numbers in Triton's interpreter, how they compile for a GPU, and all of it on a GPU.

Interpreter and compiler each want a process of their own: the first has to be chosen before Triton is imported, the
second gets a driver that only pretends. A worker process of a pool is that, and every case stays a test of its own.
"""

import math
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

import models.ops
from models.ops import BORDERS, akconv2d, initial_shape
from models.ops.gpu import TRITON_TYPES, akconv2d_triton

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@dataclass(frozen=True)
class Case:
    b: int = 2
    c: int = 3
    o: int = 4
    size: tuple[int, int] = (7, 5)
    n: int = 5
    stride: int = 2
    border: str = "published"
    shape: str | None = None
    layout: str = "channels-first"
    bias: bool = True
    spread: float = 2.0
    dtype: torch.dtype = torch.float32
    offset_dtype: torch.dtype = torch.float32

    def __str__(self):
        changed = (k for k, default in vars(Case()).items() if getattr(self, k) != default)
        return ",".join(f"{k}={getattr(self, k)}" for k in changed).replace(" ", "") or "plain"


CASES = [
    *(Case(border=border, stride=stride) for border in BORDERS for stride in (1, 2, 3)),
    *(Case(c=c, o=o) for c, o in ((1, 1), (17, 40), (40, 17))),
    *(Case(n=n, c=8, size=(4, 9)) for n in (1, 3, 9)),
    *(Case(size=size, border=border, n=3) for size in ((1, 1), (1, 6), (5, 1)) for border in BORDERS),
    *(Case(shape=shape, size=(9, 6)) for shape in ("cross", "a", "d")),
    *(Case(layout=layout, c=5) for layout in ("channels-last", "strided", "expanded")),
    Case(b=0),
    Case(b=1, bias=False),
    Case(b=3, size=(8, 9), stride=1, n=2),  # several tiles of positions
    Case(c=70, o=300, n=2, size=(3, 4)),  # several tiles of channels
    *(Case(spread=0.0, border=border) for border in BORDERS),  # integers: forward differences
    Case(spread=1e6),
    *(Case(c=7, o=20, border=border, dtype=torch.float16) for border in BORDERS),
    Case(c=17, o=6, dtype=torch.float16, offset_dtype=torch.float16),
    Case(offset_dtype=torch.float64),
]
BFLOAT16 = [replace(case, dtype=torch.bfloat16) for case in CASES if case.dtype == torch.float16]


def example(case, device="cpu"):
    """Inputs on `device`; offsets are multiples of 1/16, so that positions are exact in every type."""
    torch.manual_seed(1)
    height, width = case.size
    h, w = (height - 1) // case.stride + 1, (width - 1) // case.stride + 1
    x = torch.randn(case.b, case.c, height, width).to(device, case.dtype)
    offset = (torch.randn(case.b, 2 * case.n, h, w) * case.spread * 16).round() / 16
    offset = offset.to(device, case.offset_dtype)
    weight = torch.randn(case.o, case.c, case.n, 1).to(device, case.dtype)
    bias = torch.randn(case.o).to(device, case.dtype) if case.bias else None
    if case.layout == "channels-last":
        x, offset = (t.to(memory_format=torch.channels_last) for t in (x, offset))
    elif case.layout == "strided":
        x = torch.stack((x, x), dim=-1)[..., 0]
        offset = offset.transpose(2, 3).contiguous().transpose(2, 3)
    elif case.layout == "expanded":
        x, offset = (t[:1].expand(case.b, -1, -1, -1) for t in (x, offset))
    return [x, offset, weight, *([bias] if case.bias else [])]


def numbers(case, inputs, impl, dtype=None):
    """Output and gradients of all inputs, in float64 on the CPU; computed in `dtype`, or in the types of the inputs."""
    leaves = [t.detach().to(dtype or t.dtype).requires_grad_() for t in inputs]
    out = akconv2d(*leaves, stride=case.stride, shape=case.shape, border=case.border, impl=impl)
    torch.manual_seed(2)
    grad = torch.randn(out.shape).to(case.dtype).to(out)
    return [t.detach().double().cpu() for t in (out, *torch.autograd.grad(out, leaves, grad))]


def check(case, device="cpu"):
    """At most twice as far from the truth as plain PyTorch in the same type."""
    inputs = example(case, device)
    fused = numbers(case, inputs, "triton")
    plain = numbers(case, inputs, "reference")
    truth = numbers(case, inputs, "reference", torch.float64)
    names = ("out", "x", "offset", "weight", "bias")
    for name, actual, reference, exact in zip(names, fused, plain, truth, strict=False):
        assert actual.shape == exact.shape
        if exact.numel():
            # Some roundings more, where plain PyTorch happens to be exact.
            floor = 4 * torch.finfo(case.dtype).eps * max(1.0, exact.abs().max().item())
            allowed = 2 * (reference - exact).abs().max() + (floor if case.dtype == torch.float32 else floor / 4)
            error = (actual - exact).abs().max()
            assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"


def check_not_finite(border, device="cpu"):
    x, offset, weight = example(Case(n=3, spread=0.1, bias=False), device)  # odd sizes: a wild index hits nothing
    offset[1, 0, 1, 1] = math.nan
    out = akconv2d(x, offset.requires_grad_(), weight, stride=2, border=border, impl="triton")
    assert out[1, :, 1, 1].isnan().all()
    assert out.isnan().sum() == len(weight)
    out.sum().backward()
    for value in (math.inf, -math.inf, 1e30):
        offset = torch.full_like(offset, value).requires_grad_()
        out = akconv2d(x, offset, weight, stride=2, border=border, impl="triton")
        out.sum().backward()
        assert out.isfinite().all()
        assert offset.grad.abs().max() == 0


def check_operator(device="cpu"):
    flat = [v for point in initial_shape(3) for v in point]
    for case, requires_grad in ((Case(n=3), True), (Case(n=3, bias=False), False)):
        inputs = [t.requires_grad_(requires_grad) for t in example(case, device)]
        arguments = (*inputs, *([] if case.bias else [None]), 2, flat, "published")
        torch.library.opcheck(torch.ops.akconv.triton, arguments)


def check_compiled(device="cpu", impl="triton", backend="aot_eager"):
    inputs = [t.requires_grad_() for t in example(Case(c=8), device)]

    def call(*args):
        return akconv2d(*args, stride=2, impl=impl)

    expected = torch.autograd.grad(call(*inputs).sum(), inputs)
    actual = torch.autograd.grad(torch.compile(call, fullgraph=True, backend=backend)(*inputs).sum(), inputs)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5)


def check_autocast(dtype, device="cpu"):
    # A map so wide that coordinates would be wrong by pixels in these types.
    x, offset, weight = example(Case(c=8, o=16, size=(1, 3000), stride=60, bias=False), device)
    truth = akconv2d(x, offset, weight, stride=60, impl="reference")
    plain = akconv2d(x.to(dtype), offset, weight.to(dtype), stride=60, impl="reference")
    leaves = [t.requires_grad_() for t in (x, offset, weight)]
    with torch.autocast(device, dtype=dtype):
        out = akconv2d(*leaves, stride=60, impl="triton")
    assert out.dtype == dtype
    assert (out - truth).abs().max() <= 2 * (plain - truth).abs().max()
    out.float().sum().backward()
    assert all(t.grad.dtype == torch.float32 and t.grad.isfinite().all() for t in leaves)


def _choose_the_interpreter():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="module")
def interpreter():
    with ProcessPoolExecutor(1, get_context("spawn"), _choose_the_interpreter) as pool:
        yield lambda function, *args: pool.submit(function, *args).result()


@needs_triton
@pytest.mark.parametrize("case", CASES, ids=str)
def test_numbers(interpreter, case):
    # No bfloat16: the interpreter multiplies the bit patterns as integers (Triton 3.9).
    interpreter(check, case)


@needs_triton
@pytest.mark.parametrize("border", BORDERS)
def test_nan_in_nan_out(interpreter, border):
    interpreter(check_not_finite, border)


@needs_triton
def test_operator(interpreter):
    interpreter(check_operator)


@needs_triton
def test_compile_without_graph_breaks(interpreter):
    interpreter(check_compiled)


@needs_triton
def test_autocast_float16(interpreter):
    interpreter(check_autocast, torch.float16)


@pytest.mark.gpu
@needs_gpu
@needs_triton
@pytest.mark.parametrize("case", CASES + BFLOAT16, ids=str)
def test_numbers_on_a_gpu(case):
    check(case, "cuda")


@pytest.mark.gpu
@needs_gpu
@needs_triton
@pytest.mark.parametrize("border", BORDERS)
def test_nan_in_nan_out_on_a_gpu(border):
    check_not_finite(border, "cuda")


@pytest.mark.gpu
@needs_gpu
@needs_triton
def test_operator_on_a_gpu():
    check_operator("cuda")


@pytest.mark.gpu
@needs_gpu
@needs_triton
@pytest.mark.parametrize("impl", ["auto", "triton"])
def test_compile_on_a_gpu(impl):
    check_compiled("cuda", impl, "inductor")


@pytest.mark.gpu
@needs_gpu
@needs_triton
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_on_a_gpu(dtype):
    check_autocast(dtype, "cuda")


@pytest.mark.gpu
@needs_gpu
@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_memory_on_a_gpu(dtype):
    case = Case(b=8, c=32, o=64, size=(161, 160), dtype=dtype, layout="channels-last")
    peaks = {}
    for impl in ("triton", "reference"):
        inputs = [t.requires_grad_() for t in example(case, "cuda")]
        akconv2d(*inputs, stride=2, impl=impl).sum().backward()  # compiles, and fills caches
        for t in inputs:
            t.grad = None
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        akconv2d(*inputs, stride=2, impl=impl).sum().backward()
        peaks[impl] = torch.cuda.max_memory_allocated() - before
    assert peaks["triton"] < peaks["reference"] / 4


class Pretended:
    """As much of a driver as Triton asks for before it launches."""

    def __init__(self, capability):
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return self.target.arch

    def get_current_stream(self, device):
        return 0


class Compiled:
    """A kernel that, where it would be launched, is compiled instead."""

    def __init__(self, kernel, results):
        self.kernel, self.results = kernel, results

    def __getitem__(self, grid):
        def compile_only(*args, **options):
            self.results.append((self.kernel.__name__, self.kernel.warmup(*args, grid=grid, **options)))

        return compile_only


KERNELS = ("forward", "backward_input", "backward_weight")


def compile_kernels(case, capability):
    """Shared memory and stack in bytes of every kernel that a forward and a backward pass launch."""
    from triton.runtime import driver

    from models.ops import gpu
    from models.ops import gpu_kernels as kernels

    driver.set_active(Pretended(capability))
    originals = {name: getattr(kernels, name) for name in KERNELS}
    results = []
    try:
        for name, kernel in originals.items():
            setattr(kernels, name, Compiled(kernel, results))
        x, offset, weight, *bias = example(case)
        points = initial_shape(case.n)
        out = gpu._forward(x, offset, weight, bias[0] if bias else None, case.stride, points, case.border)
        gpu._backward(out, x, offset, weight, case.stride, points, case.border)
    finally:
        for name, kernel in originals.items():
            setattr(kernels, name, kernel)
    return {name: (kernel.metadata.shared, stack_of(kernel.asm["cubin"])) for name, kernel in results}


def stack_of(cubin):
    import triton.backends.nvidia as nvidia

    file = Path(os.environ["TRITON_CACHE_DIR"]) / "kernel.cubin"
    file.write_bytes(cubin)
    tool = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
    report = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True).stdout
    return int(report.partition("STACK:")[2].split()[0])


def _choose_the_cache(folder):
    os.environ["TRITON_CACHE_DIR"] = folder


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    pytest.importorskip("triton", "3.3", reason="older Triton has another interface to its compiler")
    folder = str(tmp_path_factory.mktemp("triton"))
    with ProcessPoolExecutor(1, get_context("spawn"), _choose_the_cache, (folder,)) as pool:
        yield lambda case, capability: pool.submit(compile_kernels, case, capability).result()


def assert_lean(usage):
    assert set(usage) == set(KERNELS)
    for kernel, (shared, stack) in usage.items():
        assert shared <= 99 * 1024, kernel  # what an Ampere or Ada card for desktops has
        assert stack <= 32, kernel  # a few spilled registers


@needs_triton
def test_compiles_for_a_gpu(compiler):
    assert_lean(compiler(Case(c=16, o=32, dtype=torch.bfloat16), 90))


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize(
    "case",
    [
        *(Case(c=32, o=64, border=border, dtype=dtype) for border in BORDERS for dtype in TRITON_TYPES),
        *(Case(c=c, o=o, bias=False, dtype=torch.bfloat16) for c, o in ((1, 1), (3, 17), (128, 256))),
        Case(c=3, o=17, offset_dtype=torch.float16),
    ],
    ids=str,
)
def test_every_variant_compiles_for_a_gpu(compiler, case):
    assert_lean(compiler(case, 90))


@pytest.mark.slow
@needs_triton
def test_compiles_for_an_older_gpu(compiler):
    assert_lean(compiler(Case(c=64, o=128, dtype=torch.bfloat16), 80))


def test_choice(monkeypatch):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.setattr(models.ops, "triton_available", lambda device: device == gpu)
    assert models.ops._choose("auto", gpu, torch.float16) == "triton"
    assert models.ops._choose("auto", gpu, torch.float64) == "rows"
    assert models.ops._choose("auto", cpu, torch.float32) != "triton"
    assert models.ops._choose("triton", gpu, torch.bfloat16) == "triton"
    for device, dtype in ((cpu, torch.float32), (gpu, torch.float64)):
        with pytest.raises(ValueError, match=r"needs the package triton.*impl='auto'"):
            models.ops._choose("triton", device, dtype)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert models.ops._choose("auto", gpu, torch.float16) == "rows"


def test_says_where_triton_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="float32 on cpu"):
        akconv2d(*example(Case()), stride=2, impl="triton")


def test_mixed_types_are_named():
    x, offset, weight = example(Case(bias=False))
    with pytest.raises(ValueError, match=r"x is torch\.float32, but weight is torch\.float16"):
        akconv2d_triton(x, offset, weight.half(), None, 2, initial_shape(5), "published")


def test_nothing_needs_triton_to_be_imported():
    code = "import sys, models.ops; assert 'triton' not in sys.modules; sys.modules['triton'] = None; " + (
        "import torch; assert not models.ops.triton_available(torch.device('cuda'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(models.ops.__file__).parents[2])
