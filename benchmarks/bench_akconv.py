"""Time and memory of the AKConv op: the published way, every implementation, and the convolution that it replaces.

python -m benchmarks.bench_akconv --out benchmarks/results/akconv.csv

Outputs and gradients are compared with the reference before anything is timed. Runs of all providers, numbers
of points and sizes of the offsets alternate.
"forward" is a pass without gradients, "total" a forward and a backward pass; "floor" is the roofline at the rates of
copy and matrix product that were measured in the same run; "startup" is the very first call of a provider, on a tiny
input, and "first" that on the shape of the row: imports, compilation and tuning are in them.
"""

import dataclasses
import itertools
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from benchmarks.akconv_cases import PROVIDERS, Case, available, check, layers_of, prepare
from benchmarks.measure import MeasureOptions, Report, alternate, elapsed
from benchmarks.roofline import copy_rate, floors, gemm_rate
from models.ops.shapes import MOST_POINTS
from utils.cli import run_command
from utils.config import option, parse_options
from utils.errors import UserError
from utils.memory import peak_memory

_SHOWN = (
    *("provider", "layer", "n", "batch", "spread", "shift"),
    *("forward_ms", "forward_speedup", "forward_floor_ms", "total_ms", "total_speedup", "total_floor_ms", "peak_mb"),
)


@dataclass(frozen=True)
class OpOptions(MeasureOptions):
    """Options of this benchmark."""

    models: tuple[str, ...] = option(("yolov5n",), "models whose AKConv layers are measured")
    layers: tuple[int, ...] = option((), "indices of layers in the model file; all by default")
    points: tuple[int, ...] = option((5,), "numbers of points N", least=1)
    batch: tuple[int, ...] = option((4,), "numbers of images", least=1)
    spread: tuple[float, ...] = option((1.0,), "standard deviations of a point's offsets, pixels", least=0)
    shift: tuple[float, ...] = option((0.0,), "standard deviations of what a point's offsets share, pixels", least=0)
    imgsz: int = option(640, "side of the image, a multiple of the model's largest stride", least=64)
    providers: tuple[str, ...] = option(PROVIDERS, "what to compare")
    memory_limit: float = option(8.0, "GB of one call; what would take more is left out", least=0)


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse_options(OpOptions, argv, prog="bench_akconv", description=__doc__ or "")
    device = options.start()
    if max(options.points) > MOST_POINTS:
        raise UserError(f"--points {max(options.points)}: expected at most {MOST_POINTS}")
    torch.backends.cudnn.allow_tf32 = False  # float32 is to mean the same for all providers
    startup = available(options.providers, device)  # first of all: making a model calls AKConv
    layers = [case for model in dict.fromkeys(options.models) for case in layers_of(model, options.imgsz)]
    known = [int(case.layer.rpartition(".")[2]) for case in layers]
    if unknown := sorted(set(options.layers) - set(known)):
        raise UserError(f"--layers: {unknown} are no AKConv, expected some of {sorted(set(known))}")
    layers = [case for index, case in zip(known, layers, strict=True) if not options.layers or index in options.layers]
    rates = {"copy_gb_s": copy_rate(device) / 1e9, "gemm_gflop_s": gemm_rate(device) / 1e9}
    print("  ".join(f"{name} {rate:.1f}" for name, rate in rates.items()))
    report = Report(options.out, device, _SHOWN)
    for layer in layers:
        kinds = itertools.product(options.points, options.spread, options.shift)
        named = (dataclasses.replace(layer, n=n, spread=spread, shift=shift) for n, spread, shift in kinds)
        cases = list(dict.fromkeys(named))
        for case in cases:
            check(startup, case, device)
        sizes = {(p, n): size_of(p, dataclasses.replace(layer, n=n), device) for p in startup for n in options.points}
        for batch in dict.fromkeys(options.batch):
            large = {(p, n): batch * size for (p, n), size in sizes.items() if batch * size > options.memory_limit}
            for (p, n), size in large.items():
                print(f"{p}: left out at {layer.layer}, N {n}, batch {batch}: it would take {size:.2g} GB")
            timed = [dataclasses.replace(case, batch=batch) for case in cases]
            fitting = [(p, case) for case in timed for p in startup if (p, case.n) not in large]
            for provider, case, row in measure(fitting, options.repeats, device):
                floor = floors(provider, case, *rates.values())
                how = {"startup_ms": 1e3 * startup[provider], "repeats": options.repeats}
                report.add({"provider": provider, **dataclasses.asdict(case)} | row | floor | rates | how)
    report.end("all was left out, for the reasons above: change --providers or --memory-limit")


def size_of(provider: str, case: Case, device: torch.device) -> float:
    """GB that a forward and a backward pass take for an image."""
    return peak_memory(prepare(provider, case, device).total, device) / case.batch / 1e9


def measure(
    what: list[tuple[str, Case]], repeats: int, device: torch.device
) -> Iterator[tuple[str, Case, dict[str, object]]]:
    """What each provider takes in each case; runs of all alternate."""
    calls = {(p, case): prepare(p, case, device) for p, case in what}
    first = {key: 1e3 * elapsed(call.total, device) for key, call in calls.items()}
    peaks = {key: peak_memory(call.total, device) / 1e6 for key, call in calls.items()}
    forward = alternate({key: call.forward for key, call in calls.items()}, repeats, device)
    total = alternate({key: call.total for key, call in calls.items()}, repeats, device)
    for p, case in what:
        row: dict[str, object] = {}
        for name, timings in (("forward", forward), ("total", total)):
            baseline = timings.get(("published", case))
            row |= timings[p, case].columns(name)
            row[f"{name}_speedup"] = baseline.median / timings[p, case].median if baseline else math.nan
        yield p, case, row | {"peak_mb": peaks[p, case], "first_ms": first[p, case]}


if __name__ == "__main__":
    sys.exit(run_command(main))
