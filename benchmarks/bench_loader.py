"""Speed of the training loader on one core, stage by stage, against a plain loader.

python -m benchmarks.bench_loader --data coco128.yaml --out benchmarks/results/loader.csv

One core, because worker processes multiply it. The recipe is the default one: mosaics of four images, zoom and shift,
jittered colours, a flip. The plain loader does the same to the pixels, but it leaves labels and all checks aside, so it
has less to do. The project's loader reads files ("project"), or images that `--cache ram` and `--cache disk` have kept.
Each runs in a process of its own that is set up like a worker of the loader, and they take turns. "rest" is what an
image takes besides: labels, random numbers, stacking.

Before anything is timed, pixels are compared, see `check`.
"""

import contextlib
import functools
import multiprocessing
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import torch

from benchmarks import plain_loader
from benchmarks.measure import MeasureOptions, Report, Timing
from benchmarks.plain_loader import Choice
from utils.cli import run_command
from utils.config import option, parse_options
from utils.data import augment, cache, canvas, dataset, images
from utils.data.batch import make_batch
from utils.data.config import load_dataset_config
from utils.data.dataset import DetectionDataset
from utils.data.loader import use_one_thread
from utils.data.packed import PackedSamples
from utils.data.sampling import BatchPlan
from utils.data.scan import scan_samples
from utils.errors import UserError
from utils.training.hyp import Hyp, load_hyp

_PROJECT: dict[str, tuple[tuple[Any, str], ...]] = {
    "decode": ((images, "read_image"), (cache.RamCache, "__call__"), (cache.DiskCache, "__call__")),
    "resize": ((images, "_resize"),),
    "mosaic": ((canvas.Canvas, "window"),),
    "warp": ((dataset, "random_affine"),),
    "colours": ((dataset, "jitter_colours"),),
    "flip": ((dataset, "random_flip"),),
    "to_tensor": ((dataset, "to_chw_rgb"),),
}
"""The functions behind each stage; those of plain_loader have the names of the stages."""
_SHOWN = ("provider", "stage", "total_ms", "total_p20_ms", "total_p80_ms", "images_s", "speedup")
_CHECKED = 8
_ALLOWED = 2


@dataclass(frozen=True)
class LoaderOptions(MeasureOptions):
    """Options of this benchmark."""

    data: str = option("shapes.yaml", "data set YAML; photos take longer than the small pictures of the built-in set")
    imgsz: int = option(640, "side of the network input", least=32)
    images: int = option(64, "network inputs of a run", least=1)


Run = dict[str, float]
"""Seconds by stage."""
_state: dict[str, Any] = {}  # of a process that measures


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse_options(LoaderOptions, argv, prog="bench_loader", description=__doc__ or "")
    device = options.start()
    data, hyp = load_dataset_config(options.data), load_hyp("hyp.scratch-low.yaml")
    samples = PackedSamples(scan_samples(data.sources("train"), data.nc))
    check(samples, options.imgsz, hyp)
    kinds: dict[str, cache.CacheKind | None] = {"baseline": None, "project": None, "ram": "ram", "disk": "disk"}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(mock.patch.object(cache, "CACHE_FOLDER", folder))
        open_images = functools.partial(cache.open_images, samples, options.imgsz, augment=True)
        readers = {name: open_images(cache=kind) for name, kind in kinds.items()}
        processes = {}
        for name, reader in readers.items():
            setup = name, DetectionDataset(samples, imgsz=options.imgsz, hyp=hyp, images=reader)
            context = multiprocessing.get_context()
            processes[name] = stack.enter_context(ProcessPoolExecutor(1, context, _start, setup))
        runs: dict[str, list[Run]] = {name: [] for name in processes}
        for epoch in range(options.repeats + 1):
            for name, process in processes.items():
                seconds = process.submit(_run, epoch, options.images).result()
                if epoch:  # the first run warms the file cache
                    runs[name].append({stage: s / options.images for stage, s in seconds.items()})
    report = Report(options.out, device, _SHOWN)
    for name in processes:
        for stage in ("all", *(stage for stage in _PROJECT if stage in runs[name][0]), "rest"):
            plain, own = (Timing.of([run[stage] for run in runs[p]]) for p in ("baseline", name))
            known = {"provider": name, "stage": stage, "data": data.file.name, "imgsz": options.imgsz}
            known |= {**own.columns("total"), "images_s": 1e3 / own.median, "speedup": plain.median / own.median}
            report.add(known | {"images": options.images, "repeats": options.repeats})


def check(samples: PackedSamples, imgsz: int, hyp: Hyp) -> None:
    """Compare the project's pixels with those of the plain loader for the same places, zoom and shift.

    Before the colours are changed they may differ by 2 levels, where no image is decoded at a smaller scale; at the
    very edge of the network input by more, because the plain loader looks one pixel beyond it. Then the colours of the
    same pixels must come out the same. (Both at once cannot be compared: 8 bits of hue make up to ten levels of one.)

    Raises:
        UserError: If they differ by more.
    """
    zoomed = augment.zoom_window

    def compare(scene: canvas.Canvas, window: tuple[int, int, int, int], shape: tuple[int, int]) -> Any:
        found, matrix = zoomed(scene, window, shape)
        indices = [cast(functools.partial[Any], picture.read).args[0] for picture, _ in scene.tiles]
        paths = [samples.path(index) for index in indices]
        scaled = any(max(samples.shape(index)) >= 2 * imgsz for index in indices)
        tiles = [plain_loader.resize(plain_loader.decode(path), imgsz) for path in paths]
        gain = np.diag(matrix)[:2]
        shift = matrix[:2, 2] + (gain - 1) / 2  # the centre of the first pixel is at 0 for OpenCV, at 0.5 for boxes
        moved = np.column_stack((np.diag(gain), shift))
        choice = Choice(scene.tiles[3][1], moved, 1 + np.random.default_rng(0).uniform(-1, 1, 3) * ranges, flip=False)
        expected = plain_loader.warp(plain_loader.mosaic(tiles, imgsz, choice), imgsz, choice)
        difference = np.abs(found.astype(int) - expected)[1:-1, 1:-1].max()
        if difference > _ALLOWED and not scaled:
            raise UserError(f"{paths[0]}: pixels differ from those of the plain loader by {difference} levels")
        changed = augment.jitter_colours(expected, hyp, np.random.default_rng(0))
        if not np.array_equal(changed, plain_loader.colours(expected, choice)):
            raise UserError(f"{paths[0]}: the colours are not changed as in the plain loader")
        return found, matrix

    ranges = np.array((hyp.hsv_h, hyp.hsv_s, hyp.hsv_v))
    items = DetectionDataset(samples, imgsz=imgsz, hyp=hyp)
    with mock.patch.object(augment, "zoom_window", compare):
        for index in range(min(len(samples), _CHECKED)):
            items[0, index]


def _start(name: str, items: DetectionDataset) -> None:
    """Set a process up as a worker of a loader."""
    use_one_thread()
    _state.update(provider=load_plainly if name == "baseline" else load, items=items)


def _run(epoch: int, count: int) -> Run:
    """Seconds by stage of one batch."""
    seconds: Run = defaultdict(float)
    items = _state["items"]
    pixels = timed(seconds, "all", _state["provider"])(items, epoch, count, seconds)
    assert pixels.shape == (count, 3, items.imgsz, items.imgsz)
    total = sum(seconds.values())
    return {"rest": seconds.pop("all"), **seconds, "all": total}


def load(items: DetectionDataset, epoch: int, count: int, seconds: Run) -> torch.Tensor:
    """One batch of the project's loader, as a worker process makes it."""
    with contextlib.ExitStack() as stack:
        for stage, functions in _PROJECT.items():
            for owner, name in functions:
                stack.enter_context(mock.patch.object(owner, name, timed(seconds, stage, getattr(owner, name))))
        plan = BatchPlan([[(epoch, i % len(items))] for i in range(count)])
        return make_batch(items, plan).images


def load_plainly(items: DetectionDataset, epoch: int, count: int, seconds: Run) -> torch.Tensor:
    """One batch of the plain loader."""
    rng = np.random.default_rng(epoch)
    hyp, batch = items.hyp, []
    assert isinstance(hyp, Hyp)
    with contextlib.ExitStack() as stack:
        for stage in _PROJECT:
            function = timed(seconds, stage, getattr(plain_loader, stage))
            stack.enter_context(mock.patch.object(plain_loader, stage, function))
        for i in range(count):
            indices = (i % len(items), *rng.integers(len(items), size=3))
            paths = [items.samples.path(index) for index in indices]
            batch.append(plain_loader.plain_item(paths, items.imgsz, plain_loader.choose(items.imgsz, hyp, rng)))
        return torch.stack(batch)


def timed(seconds: Run, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with its time added to a stage and taken from that of the stage that calls it."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        start, inner = time.perf_counter(), sum(seconds.values())
        result = function(*args, **kwargs)
        inner = sum(seconds.values()) - inner
        seconds[stage] += time.perf_counter() - start - inner
        return result

    return call


if __name__ == "__main__":
    sys.exit(run_command(main))
