"""Train a detector: `python train.py --cfg yolov5n-ak5.yaml --data shapes.yaml --img 320`."""

if __name__ == "__main__":
    from utils.cli import end_at_once_on_interrupt

    end_at_once_on_interrupt()


import dataclasses
import functools
import json
import logging
import shlex
import sys
import time
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import Model, load_model
from models.config import load_model_config
from models.loading import build_from
from models.starting import start_model
from models.summary import cost, cost_line
from utils.checkpoint import Checkpoint, save_checkpoint, strip_training
from utils.cli import run_command
from utils.data.loader import DetectionLoader
from utils.data.scan import Sample
from utils.device import describe_device, select_device
from utils.distributed import World, check_sync_bn, joined, synchronized, this_world, together
from utils.errors import UserError
from utils.evaluation.annotations import official_annotations
from utils.evaluation.coco import CocoEvaluator
from utils.evaluation.evaluate import Evaluation, evaluate
from utils.evaluation.tables import write_tables
from utils.files import check_project, write_text, write_yaml
from utils.legacy import is_legacy
from utils.training.anchors import suit_anchors
from utils.training.autobatch import largest_batch
from utils.training.data import Data, make_loaders, read_data, weighting
from utils.training.ema import ModelEMA
from utils.training.events import Events, open_events
from utils.training.evolve import SEARCH_SETTINGS, evolve
from utils.training.freeze import freeze
from utils.training.hyp import Hyp, load_hyp
from utils.training.input_size import fitting_size, resize_randomly
from utils.training.loop import Training, fit
from utils.training.loss import DetectionLoss, loss_gains
from utils.training.offsets import OffsetMonitor
from utils.training.optim import build_optimizer
from utils.training.options import NEWEST, TrainOptions, change_options, parse_train_options, resumed_options
from utils.training.precision import check_precision, choose_precision, compile_model
from utils.training.resume import Resume, open_run, restarted_run
from utils.training.run_files import (
    batch_plotter,
    describe_run,
    new_run_directory,
    plot_labels,
    remove_temporaries,
    search_directory,
)
from utils.training.run_lock import RunLock
from utils.training.schedule import Schedule
from utils.training.seed import seed_everything
from utils.training.state import TrainingState
from utils.training.stopping import EarlyStopper

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> Evaluation | None:
    """Train as the command line says; the evaluation of the best epoch, in the process that writes files."""
    options = parse_train_options(argv)
    if options.evolve or options.resume_evolve:
        search(options)
        return None
    if not options.resume:
        return train(options)
    resume = open_run(options.resume)
    return train(resumed_options(resume.training["options"], argv), resume)


def run(**options: Any) -> Evaluation | None:
    """Train from Python, for example `train.run(cfg="yolov5n.yaml", epochs=3)`.

    Args:
        options: Fields of `TrainOptions`; with `resume`, a path or True, only those that change.

    Returns:
        The evaluation of the best epoch; of several processes, in the one that writes files. None after `evolve`.

    Raises:
        UserError: For anything the user can mend.
    """
    known = [field.name for field in dataclasses.fields(TrainOptions)]
    for name in options.keys() - set(known):
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        raise UserError(f"{name}: no such option; {hint}")
    if options.get("evolve") or options.get("resume_evolve"):
        search(TrainOptions(**options))
        return None
    if not options.get("resume"):
        return train(TrainOptions(**options))
    resume = open_run(NEWEST if options["resume"] is True else options["resume"])
    return train(change_options(resume.training["options"], options), resume)


def search(options: TrainOptions) -> None:
    """Search for hyperparameters: many trainings, each in a folder of its own within that of the search."""
    check_files(options)
    directory = search_directory(options)
    base = load_hyp(options.hyp)

    def train_trial(hyp: Hyp, report: Callable[[int, float], None]) -> float:
        file = directory / "hyp_trial.yaml"
        write_yaml(file, hyp.to_dict())
        trial: dict[str, Any] = {"hyp": str(file), "project": str(directory / "trials"), "name": "trial"}
        trial |= {"evolve": 0, "resume_evolve": "", "noplots": True, "noval": False, "tracker": ("none",)}
        evaluation = train(dataclasses.replace(options, **trial), report=report)
        return evaluation.metrics.fitness if evaluation else 0.0

    settings = {name: getattr(options, name) for name in SEARCH_SETTINGS}
    evolve(directory, base, options.evolve, options.epochs, train_trial, settings=settings, seed=options.seed)
    log.info("best hyperparameters: %s", directory / "hyp_evolve.yaml")


def train(
    options: TrainOptions, resume: Resume | None = None, report: Callable[[int, float], None] = lambda *_: None
) -> Evaluation | None:
    """Train, and evaluate the best epoch.

    Args:
        options: Of the command.
        resume: The run to continue; without, a new one is started.
        report: Told every epoch that was evaluated, and its fitness; may end the training by raising.

    Raises:
        UserError: For anything the user can mend.
    """
    started, world = time.monotonic(), this_world()
    if not world.is_main:
        logging.disable(logging.INFO)
    resume = resume or restarted_run(options)
    device = select_device(options.device, world.local_rank if world.size > 1 else None)
    log.info("%s%s", describe_device(device), f", {world.size} processes" if world.size > 1 else "")
    with RunLock() as lock, joined(world, device, functools.partial(prepared, options, resume, world, device)) as data:
        training, val_loader = wire(options, resume, data, world, device, report, lock)
        try:
            fit(training)
        except KeyboardInterrupt:
            if (last := training.directory / "weights" / "last.pt").exists():
                log.info("\ngo on with: python train.py --resume %s", shlex.quote(str(last)))
            else:
                log.info("\nno epoch is complete, so there is nothing to go on with")
            raise
        finally:
            training.events.close()
        if not world.is_main:
            return None
        evaluation = finish(training, val_loader, data)
    hours = (time.monotonic() - started) / 3600
    log.info("%d epochs completed in %.3f hours; results in %s", training.state.epoch, hours, training.directory)
    return evaluation


def prepared(options: TrainOptions, resume: Resume | None, world: World, device: torch.device) -> Data:
    """What the user gave, read and checked; first what takes no time."""
    check_precision(options.amp, device)
    if options.sync_bn:
        check_sync_bn(world, device)
    if not resume:
        check_files(options)
    return read_data(options, resume)


def wire(
    options: TrainOptions,
    resume: Resume | None,
    data: Data,
    world: World,
    device: torch.device,
    report: Callable[[int, float], None],
    lock: RunLock,
) -> tuple[Training, DetectionLoader]:
    """Put a training together, with the loader of the whole validation split.

    Everything the user gave is checked before a folder is made.
    """
    seed = options.seed + 1  # as YOLOv5; the same in every process, for what they have to do alike
    seed_everything(seed, options.deterministic or device.type == "cpu")  # it costs nothing on a CPU
    hyp, names = data.hyp, data.names
    model = resumed_model(resume, names, options) if resume else new_model(options, hyp, names)
    freeze(model, options.freeze)
    stride = max(int(model.stride.max()), 32)
    imgsz = fitting_size(options.imgsz, stride)
    log.info("%s", cost_line(options.cfg or options.weights, cost(model, imgsz)))
    if not (options.noautoanchor or resume):
        fit_anchors(model, data.train, imgsz, hyp.anchor_t, seed)

    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if options.sync_bn:
        model = synchronized(model)
    amp = choose_precision(options.amp, model, device)
    loss = DetectionLoss(
        model.head.anchors,
        model.nc,
        hyp,
        loss_gains(hyp, nc=model.nc, imgsz=imgsz, levels=model.head.nl),
        label_smoothing=options.label_smoothing,
        world=world,
    )
    if options.batch_size == -1:
        options = dataclasses.replace(options, batch_size=fitting_batch(model, loss, options, hyp, imgsz, amp, world))
    batch_size = shared_batch(options.batch_size, len(data.train), world.size)
    loader, val_loader, own_val_loader = make_loaders(options, data, batch_size, imgsz, stride, seed, world)
    state = TrainingState(
        model=model,
        ema=ModelEMA(model),
        optimizer=build_optimizer(model, options.optimizer, hyp, batch_size),
        scaler=torch.amp.GradScaler(device.type, enabled=amp == torch.float16),
        stopper=EarlyStopper(options.patience),
        class_ap=[0.0] * model.nc,
    )
    if resume:
        state.restore(resume.training, resume.checkpoint.state, str(resume.file))
        log.info("continuing after %d epochs", state.epoch)
    directory = world.gathered(run_directory(options, resume, hyp, lock) if world.is_main else Path())[0]
    plots = world.is_main and not options.noplots
    if plots and not resume:
        plot_labels(directory, [sample.labels for sample in data.train], names)
    if options.compile:  # after the average was copied: that is only evaluated
        compile_model(model, device)
    settings = {"options": dataclasses.asdict(options), "hyp": hyp.to_dict()}
    told = {f"{group}/{key}": value for group, values in settings.items() for key, value in values.items()}
    log.info("%d epochs at %d px; results go to %s", options.epochs, imgsz, directory)
    training = Training(
        options=options,
        directory=directory,
        device=device,
        amp=amp,
        state=state,
        loader=loader,
        schedule=Schedule(hyp, options.epochs, len(loader), batch_size, cosine=options.cos_lr),
        loss=loss,
        network=together(model, world, device),
        world=world,
        prepare=functools.partial(resize_randomly, stride=stride) if options.multi_scale else nn.Identity(),
        validate=functools.partial(
            evaluate,
            loader=own_val_loader,
            names=names,
            loss=loss,
            amp=amp,
            single_cls=options.single_cls,
            world=world,
        ),
        draw=weighting(options, data),
        events=open_events(directory, options.tracker, config=told, first_step=state.epoch)
        if world.is_main
        else Events(),
        monitor=OffsetMonitor(),
        report=report,
        save=functools.partial(save, model, state, settings),
        on_batch=batch_plotter(directory, names) if plots else lambda *_: None,
    )
    return training, val_loader


def fit_anchors(model: Model, samples: list[Sample], imgsz: int, anchor_t: float, seed: int) -> None:
    """Give the model anchors that suit the objects, if its own do not."""
    pixels = model.head.anchors * model.stride[:, None, None]
    shapes, labels = [sample.shape for sample in samples], [sample.labels for sample in samples]
    found = suit_anchors(pixels, model.stride, shapes, labels, imgsz, anchor_t, seed=seed)
    if found is not pixels:
        model.head.anchors.copy_(found / model.stride[:, None, None])
        model.cfg["anchors"] = found.flatten(1).tolist()


def fitting_batch(
    model: Model, loss: DetectionLoss, options: TrainOptions, hyp: Hyp, imgsz: int, amp: torch.dtype, world: World
) -> int:
    """What --batch-size -1 means here."""
    if world.size > 1:
        raise UserError("--batch-size -1: memory is measured in a single process; give a number for several")
    stride = int(model.stride.max())
    largest = int(1.5 * imgsz) // stride * stride + stride if options.multi_scale else imgsz
    make = functools.partial(build_optimizer, name=options.optimizer, hyp=hyp, batch_size=16)
    device = model.head.anchors.device
    return largest_batch(model, loss, make, imgsz=2 * largest if options.quad else largest, device=device, amp=amp)


def shared_batch(wished: int, images: int, processes: int) -> int:
    """Images of a batch: no more than there are, and as many for each process."""
    if wished % processes:
        raise UserError(
            f"--batch-size {wished} images cannot be shared equally by {processes} processes; give a multiple of "
            f"{processes}"
        )
    if images < processes:
        raise UserError(f"found {images} training images, too few for {processes} processes; start fewer")
    return min(wished, images // processes * processes)


def run_directory(options: TrainOptions, resume: Resume | None, hyp: Hyp, lock: RunLock) -> Path:
    """The folder of the run, made if it is a new one, with what describes the run in it."""
    directory = resume.directory if resume else new_run_directory(options)
    lock.take(directory)
    if resume:
        remove_temporaries(directory)
    describe_run(directory, options, hyp)
    return directory


def check_files(options: TrainOptions) -> None:
    """Find mistakes in --cfg, --weights and --project before the data set is read or drawn, which can take long."""
    if options.cfg:
        load_model_config(options.cfg)
    if options.weights:
        is_legacy(options.weights)
    check_project(options.project)


def new_model(options: TrainOptions, hyp: Hyp, names: dict[int, str]) -> Model:
    """A new model for the classes of the data set."""
    find = not options.noautoanchor
    anchors = round(hyp.anchors or 0) if find else 0
    return start_model(options.cfg, options.weights, names, anchors=anchors, find_anchors=find)


def resumed_model(resume: Resume, names: dict[int, str], options: TrainOptions) -> Model:
    """The model of the run to continue, still with its averaged weights."""
    checkpoint = resume.checkpoint
    if checkpoint.names != names:
        raise UserError(f"--data {options.data}: its classes {names} are not those of the run, {checkpoint.names}")
    return build_from(checkpoint, str(resume.file))


def save(model: Model, state: TrainingState, extra: dict[str, Any], file: Path) -> None:
    """Write the state of a training as a checkpoint."""
    average = state.ema.model.state_dict()
    save_checkpoint(file, Checkpoint(model.cfg, model.names, model.stride.tolist(), average, state.capture() | extra))


def finish(training: Training, val_loader: DetectionLoader, data: Data) -> Evaluation:
    """Evaluate the best epoch as it will be used, plot, and take the training state out of the checkpoints.

    last.pt is stripped at the very end, so that an interrupted finish can be repeated with --resume.
    """
    directory, options = training.directory, training.options
    last, best = (directory / "weights" / name for name in ("last.pt", "best.pt"))
    strip_training(best)
    annotations = official_annotations(data.dataset, "val", data.val, single_cls=options.single_cls)
    evaluation = evaluate(
        load_model(best, device=training.device),
        val_loader,
        data.names,
        amp=training.amp,
        single_cls=options.single_cls,
        save_dir=directory,
        plots=not options.noplots,
        verbose=True,
        coco=CocoEvaluator(data.names, annotations),
    )
    if not options.noplots:
        from utils.show.training_plots import save_results_plot

        save_results_plot(directory)
    result = {"fitness": evaluation.metrics.fitness} | evaluation.to_dict()
    write_text(directory / "metrics.json", json.dumps(result, indent=2) + "\n")
    write_tables(directory, evaluation)
    strip_training(last)
    return evaluation


if __name__ == "__main__":
    sys.exit(run_command(main))
