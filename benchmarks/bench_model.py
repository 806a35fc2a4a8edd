"""Time and memory of whole models: a training step and inference, plain against AKConv.

python -m benchmarks.bench_model --out benchmarks/results/model.csv

A training step is forward, loss, backward, clipping and an optimizer step, with the project's loss and optimizer;
inference is the fused model and decoding, without NMS. Images are random, the models untrained, except that their
offsets differ from place to place by about a pixel, as after training. Runs of all models alternate; ratios are to the
first model. Peak memory is what a call needs beyond weights, momentum and images.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.measure import MeasureOptions, Report, alternate, check_imgsz, elapsed
from models import Model
from models.akconv import AKConv
from utils.cli import run_command
from utils.config import option, parse_options
from utils.memory import peak_memory
from utils.training.hyp import load_hyp
from utils.training.loss import DetectionLoss, loss_gains, total_loss
from utils.training.optim import build_optimizer

_DTYPES = {"off": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_SHOWN = ("model", "task", "batch", "total_ms", "total_p20_ms", "total_p80_ms", "time_ratio", "images_s", "peak_mb")
_OBJECTS = 8


@dataclass(frozen=True)
class ModelOptions(MeasureOptions):
    """Options of this benchmark."""

    # The ratio of a single image is of two calls of milliseconds: five runs of each scattered it by a tenth.
    repeats: int = option(21, "timed runs", least=1)
    models: tuple[str, ...] = option(("yolov5n", "yolov5n-ak5"), "model files; the first is what others compare with")
    train_batch: tuple[int, ...] = option((4,), "images of a training step; 0 for none", least=0)
    batch: tuple[int, ...] = option((1, 8), "images of an inference; 0 for none", least=0)
    imgsz: int = option(640, "side of the images, a multiple of the models' largest stride", least=64)
    amp: str = option("off", "type of automatic mixed precision", choices=tuple(_DTYPES))
    compile: bool = option(False, "compile the models with torch.compile")


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse_options(ModelOptions, argv, prog="bench_model", description=__doc__ or "")
    device = options.start()
    names = dict.fromkeys(name.removesuffix(".yaml") for name in options.models)
    for name in names:
        check_imgsz(options.imgsz, Model(f"{name}.yaml").stride, name)
    report = Report(options.out, device, (*_SHOWN, "peak_ratio"))
    for task, make, batches in (("train", training_step, options.train_batch), ("inference", inference, options.batch)):
        for batch in dict.fromkeys(filter(None, batches)):
            calls = {name: make(new_model(name, device), batch, options, device) for name in names}
            first = {name: elapsed(call, device) for name, call in calls.items()}
            peaks = {name: peak_memory(call, device) for name, call in calls.items()}
            timings = alternate(calls, options.repeats, device)
            plain = next(iter(names))
            for name, timing in timings.items():
                known = {"model": name, "task": task, "batch": batch, "imgsz": options.imgsz, "amp": options.amp}
                report.add(
                    {**known, "compile": options.compile, **timing.columns("total")}
                    | {"time_ratio": timing.median / timings[plain].median, "images_s": 1e3 * batch / timing.median}
                    | {"peak_mb": peaks[name] / 1e6, "peak_ratio": peaks[name] / peaks[plain]}
                    | {"first_ms": 1e3 * first[name], "repeats": options.repeats}
                )
    report.end("give a --train-batch or a --batch of at least 1")


def new_model(name: str, device: torch.device) -> Model:
    """An untrained model with 80 classes whose offsets are not the same everywhere."""
    torch.manual_seed(0)
    model = Model(f"{name}.yaml", nc=80)
    for module in model.modules():
        if isinstance(module, AKConv):
            nn.init.kaiming_normal_(module.p_conv.weight, nonlinearity="linear")
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def training_step(model: Model, batch: int, options: ModelOptions, device: torch.device) -> Callable[[], object]:
    """A function that takes one step."""
    hyp = load_hyp("hyp.scratch-low.yaml")
    gains = loss_gains(hyp, nc=model.nc, imgsz=options.imgsz, levels=model.head.nl)
    loss = DetectionLoss(model.head.anchors, model.nc, hyp, gains)
    optimizer = build_optimizer(model, "SGD", hyp, batch)
    scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "fp16")
    network = torch.compile(model.train()) if options.compile else model.train()
    images = torch.randint(256, (batch, 3, options.imgsz, options.imgsz), dtype=torch.uint8).to(device)
    owner = torch.arange(batch).repeat_interleave(_OBJECTS)[:, None]
    boxes = torch.rand(len(owner), 4) * 0.5 + 0.1
    targets = torch.cat((owner, torch.randint(model.nc, owner.shape), boxes), dim=1).to(device)

    def step() -> None:
        with autocast(options.amp, device):
            raw = network(images.float() / 255)
        scaler.scale(total_loss(loss(raw, targets), batch)).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step


def inference(model: Model, batch: int, options: ModelOptions, device: torch.device) -> Callable[[], object]:
    """A function that predicts one batch."""
    fused = model.eval().fuse()
    network = torch.compile(fused) if options.compile else fused
    images = torch.rand(batch, 3, options.imgsz, options.imgsz).to(device)

    @torch.no_grad()
    def predict() -> Tensor:
        with autocast(options.amp, device):
            raw = network(images)
        return fused.decode([level.float() for level in raw])

    return predict


def autocast(amp: str, device: torch.device) -> torch.autocast:
    """Mixed precision as the option says."""
    return torch.autocast(device.type, _DTYPES[amp], enabled=amp != "off")


if __name__ == "__main__":
    sys.exit(run_command(main))
