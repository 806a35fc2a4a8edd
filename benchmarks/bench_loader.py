"""Speed of the training loader on one core, stage by stage, against a plain loader.

python -m benchmarks.bench_loader --data coco128.yaml --out benchmarks/results/loader.csv

One core, because worker processes multiply it. The recipe is the default one: mosaics of four images, zoom and shift,
jittered colours, a flip. The plain loader does the same to the pixels, but it leaves labels, orientation and all checks
aside, so it has less to do. "rest" is what an image takes besides: labels, random numbers, stacking.
"""

import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch

from benchmarks import plain_loader
from benchmarks.measure import MeasureOptions, Report, Timing
from utils.cli import run_command
from utils.config import option, parse_options
from utils.data import dataset
from utils.data.config import load_dataset_config
from utils.data.loader import Batch, collate
from utils.data.scan import Sample, scan_samples
from utils.training.hyp import Hyp, load_hyp

_PROJECT = {
    "decode": "read_image",
    "resize": "resize_long_side",
    "mosaic": "mosaic",
    "warp": "random_affine",
    "colours": "jitter_colours",
    "flip": "random_flip",
    "to_tensor": "to_chw_rgb",
}
"""The functions of utils.data.dataset behind each stage; those of plain_loader have the names of the stages."""
_SHOWN = ("provider", "stage", "total_ms", "total_p20_ms", "total_p80_ms", "images_s", "speedup")


@dataclass(frozen=True)
class LoaderOptions(MeasureOptions):
    """Options of this benchmark."""

    data: str = option("shapes.yaml", "data set YAML; photos take longer than the small pictures of the built-in set")
    imgsz: int = option(640, "side of the network input")
    images: int = option(64, "network inputs of a run")


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse_options(LoaderOptions, argv, prog="bench_loader", description=__doc__ or "")
    device = options.start()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # as in a worker process
    data, hyp = load_dataset_config(options.data), load_hyp("hyp.scratch-low.yaml")
    samples = scan_samples(data.sources("train"), data.nc)
    providers = {"baseline": load_plainly, "project": load}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in providers}
    for epoch in range(options.repeats + 1):
        for name, provider in providers.items():
            seconds: dict[str, float] = defaultdict(float)
            images = timed(seconds, "all", provider)(samples, options, hyp, epoch, seconds)
            assert images.shape == (options.images, 3, options.imgsz, options.imgsz)
            if epoch:  # the first run warms the file cache
                seconds["rest"] = seconds["all"] - sum(seconds[stage] for stage in _PROJECT)
                runs[name].append({stage: s / options.images for stage, s in seconds.items()})
    report = Report(options.out, device, _SHOWN)
    for name in providers:
        for stage in ("all", *_PROJECT, "rest"):
            plain, own = (Timing.of([run[stage] for run in runs[p]]) for p in ("baseline", name))
            known = {"provider": name, "stage": stage, "data": data.file.name, "imgsz": options.imgsz}
            known |= {**own.columns("total"), "images_s": 1e3 / own.median, "speedup": plain.median / own.median}
            report.add(known | {"images": options.images, "repeats": options.repeats})


def load(
    samples: list[Sample], options: LoaderOptions, hyp: Hyp, epoch: int, seconds: dict[str, float]
) -> torch.Tensor:
    """One batch of the project's loader, as a worker process makes it."""
    with stages_timed(seconds, dataset, _PROJECT):
        items = dataset.DetectionDataset(samples, imgsz=options.imgsz, hyp=hyp)
        batch = collate([items[epoch, i % len(samples)] for i in range(options.images)])
    assert isinstance(batch, Batch)
    return batch.images


def load_plainly(
    samples: list[Sample], options: LoaderOptions, hyp: Hyp, epoch: int, seconds: dict[str, float]
) -> torch.Tensor:
    """One batch of the plain loader."""
    rng = np.random.default_rng(epoch)
    batch = []
    with stages_timed(seconds, plain_loader, {stage: stage for stage in _PROJECT}):
        for i in range(options.images):
            indices = (i % len(samples), *rng.integers(len(samples), size=3))
            paths = [samples[index].path for index in indices]
            batch.append(plain_loader.plain_item(paths, options.imgsz, hyp, rng))
        return torch.stack(batch)


@contextlib.contextmanager
def stages_timed(seconds: dict[str, float], module: ModuleType, functions: dict[str, str]) -> Iterator[None]:
    """Meanwhile, let the functions behind the stages add up their time."""
    with contextlib.ExitStack() as stack:
        for stage, name in functions.items():
            stack.enter_context(mock.patch.object(module, name, timed(seconds, stage, getattr(module, name))))
        yield


def timed(seconds: dict[str, float], stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with its time added to a stage."""

    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = function(*args, **kwargs)
        seconds[stage] += time.perf_counter() - start
        return result

    return call


if __name__ == "__main__":
    sys.exit(run_command(main))
