"""The floor under a time: the least work of an AKConv or convolution, at the rates of this machine."""

import torch

from benchmarks.akconv_cases import Case
from benchmarks.measure import elapsed


def copy_rate(device: torch.device) -> float:
    """Bytes a second that a large copy reads and writes, the best of several; far beyond the caches' size."""
    source = torch.ones(2**26 if device.type == "cpu" else 2**28, device=device)
    target = torch.empty_like(source)
    seconds = min(elapsed(lambda: target.copy_(source), device) for _ in range(10))
    return 2 * source.nbytes / seconds


def gemm_rate(device: torch.device) -> float:
    """Floating-point operations a second of a large float32 matrix product, the best of several."""
    side = 1024 if device.type == "cpu" else 8192
    a, b = torch.rand(side, side, device=device), torch.rand(side, side, device=device)
    return 2 * side**3 / min(elapsed(lambda: torch.mm(a, b), device) for _ in range(10))


def work(provider: str, case: Case) -> tuple[float, float]:
    """Least bytes to move and operations to do in a forward pass, float32.

    Each tensor is moved once. `layer` need not move its offsets. Bilinear interpolation is 4 multiply-adds a value.
    """
    x = case.batch * case.channels * case.height * case.width
    offsets, out = 2 * case.n * case.cells, case.cells * case.out
    op = 2 * case.cells * case.n * case.channels * (case.out + 4)
    weight = case.out * case.channels * case.n
    if provider == "conv":
        return 4 * (x + 9 * case.out * case.channels + out), 2 * case.cells * 9 * case.channels * case.out
    if provider == "layer":
        predictor = 9 * case.channels * 2 * case.n
        return 4 * (x + predictor + weight + out), op + 2 * case.cells * predictor
    return 4 * (x + offsets + weight + out), op


def floors(provider: str, case: Case, copy_gb_s: float, gemm_gflop_s: float) -> dict[str, object]:
    """The roofline: ms that the work takes at least, at the rates of the machine.

    Forward and backward together move every input twice more (read, gradient written), the output's gradient once, and
    do three times the operations.
    """
    moved, operations = work(provider, case)
    moved_back = 2 * moved - 4 * case.cells * case.out
    return {
        "forward_mb": moved / 1e6,
        "forward_gflop": operations / 1e9,
        "forward_floor_ms": max(moved / copy_gb_s, operations / gemm_gflop_s) / 1e6,
        "total_floor_ms": max((moved + moved_back) / copy_gb_s, 3 * operations / gemm_gflop_s) / 1e6,
    }
