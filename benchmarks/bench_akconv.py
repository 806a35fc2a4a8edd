"""Time and memory of the AKConv op, every implementation against four gathers and the convolution it replaces.

python benchmarks/bench_akconv.py --out benchmarks/results/akconv.csv

Each row: implementation, shape, median, 20th and 80th percentile of forward and of forward + backward in ms, the ratio
to `reference` (four gathers) in the same run, and the hardware and versions. Results are compared with the reference
before anything is timed. Runs of all implementations alternate, so that a drift of the machine's speed hits all alike.
"""

import csv
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.ops import akconv2d
from utils.cli import run_command
from utils.config import option, parse_options
from utils.device import describe_device, select_device, synchronize

LAYERS = {  # the AKConv layers of yolov5n at 640 px: input channels, side, output channels
    "P2": (16, 320, 32),
    "P3": (32, 160, 64),
    "P4": (64, 80, 128),
    "P5": (128, 40, 256),
    "head P4": (64, 80, 64),
    "head P5": (128, 40, 128),
}


@dataclass(frozen=True)
class BenchOptions:
    """Options of this benchmark."""

    batch: int = option(4, "images")
    points: tuple[int, ...] = option((5,), "numbers of points N")
    layers: tuple[str, ...] = option(tuple(LAYERS), "layers of yolov5n")
    impl: tuple[str, ...] = option(("reference", "rows", "grid", "deform", "conv"), "implementations; conv is a 3x3")
    repeats: int = option(5, "timed runs")
    threads: int = option(2, "threads of the CPU")
    device: str = option("cpu", "cpu or a CUDA index")
    out: str = option("", "CSV file to write")


def main() -> None:
    """Run the benchmark."""
    options = parse_options(BenchOptions, prog="bench_akconv.py", description=__doc__ or "")
    torch.set_num_threads(options.threads)
    device = select_device(options.device)
    rows = [row for n in options.points for layer in options.layers for row in measure(layer, n, options, device)]
    if options.out:
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        with Path(options.out).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)


def measure(layer: str, n: int, options: BenchOptions, device: torch.device) -> list[dict[str, object]]:
    """All implementations on one layer."""
    c, side, o = LAYERS[layer]
    calls = {impl: make_call(impl, options.batch, c, side, o, n, device) for impl in options.impl}
    expected = calls["reference"]()[0].detach()
    for impl, call in calls.items():
        if impl != "conv":
            error = (call()[0].detach() - expected).abs().max() / expected.abs().max()
            assert error < 1e-4, f"{impl} differs from the reference by {error:.1e}"
    times: dict[str, list[tuple[float, float]]] = {impl: [] for impl in calls}
    for _ in range(options.repeats):
        for impl, call in calls.items():
            times[impl].append(timed(call, device))
    where = {"device": describe_device(device), "cpu": platform.processor() or platform.machine()}
    rows = []
    base = [statistics.median(t) for t in zip(*times["reference"], strict=True)]
    for impl, pairs in times.items():
        row: dict[str, object] = {
            "layer": layer,
            "shape": f"{options.batch}x{c}x{side}x{side}->{o}",
            "N": n,
            "impl": impl,
        }
        for name, values, reference in zip(("forward", "total"), zip(*pairs, strict=True), base, strict=True):
            low, median, high = quantiles(values)
            row |= {f"{name}_ms": f"{median:.1f}", f"{name}_p20": f"{low:.1f}", f"{name}_p80": f"{high:.1f}"}
            row[f"{name}_speedup"] = f"{reference / median:.2f}"
        rows.append(row | where)
        print("  ".join(f"{value}" for value in list(row.values())))
    return rows


def make_call(
    impl: str, b: int, c: int, side: int, o: int, n: int, device: torch.device
) -> Callable[[], tuple[Tensor, list[Tensor]]]:
    """A forward pass that returns the output and what it is differentiated by; inputs are the same for all."""
    rng = torch.Generator().manual_seed(0)
    h = (side - 1) // 2 + 1
    x = torch.randn(b, c, side, side, generator=rng).to(device, memory_format=torch.channels_last).requires_grad_()
    if impl == "conv":
        conv = nn.Conv2d(c, o, 3, 2, 1, bias=False).to(device, memory_format=torch.channels_last)
        return lambda: (conv(x), [x, conv.weight])
    offset = torch.randn(b, 2 * n, h, h, generator=rng).mul(2).to(device, memory_format=torch.channels_last)
    weight = torch.randn(o, c, n, 1, generator=rng).to(device).requires_grad_()
    offset.requires_grad_()
    return lambda: (akconv2d(x, offset, weight, stride=2, impl=impl), [x, offset, weight])  # type: ignore[arg-type]


def timed(call: Callable[[], tuple[Tensor, list[Tensor]]], device: torch.device) -> tuple[float, float]:
    """Milliseconds of the forward pass, and of forward and backward together."""
    synchronize(device)
    start = time.perf_counter()
    out, leaves = call()
    synchronize(device)
    middle = time.perf_counter()
    torch.autograd.grad(out, leaves, torch.ones_like(out))
    synchronize(device)
    return 1e3 * (middle - start), 1e3 * (time.perf_counter() - start)


def quantiles(values: tuple[float, ...]) -> tuple[float, float, float]:
    """20th percentile, median, 80th percentile."""
    ordered = sorted(values)
    return ordered[len(ordered) // 5], statistics.median(ordered), ordered[-1 - len(ordered) // 5]


if __name__ == "__main__":
    sys.exit(run_command(main))
