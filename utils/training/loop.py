"""The training loop."""

import dataclasses
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from utils.data.loader import Batch, DetectionLoader
from utils.distributed import World, apart
from utils.evaluation.evaluate import Evaluation
from utils.training.events import Events
from utils.training.interruption import Interruption
from utils.training.loss import DetectionLoss, total_loss
from utils.training.offsets import OffsetMonitor
from utils.training.optim import apply_settings
from utils.training.options import TrainOptions
from utils.training.predictions import PredictionPictures, shows_predictions
from utils.training.progress import LOSS_NAMES, EpochProgress
from utils.training.results import record_epoch
from utils.training.schedule import Schedule
from utils.training.state import TrainingState
from utils.training.stopwatch import Stopwatch

log = logging.getLogger(__name__)

_LARGEST_GRADIENT = 10.0


@dataclasses.dataclass(frozen=True)
class Training:
    """What a training works with; all that changes is in `state`.

    Attributes:
        options: Of the command.
        directory: Of the run; results.csv and weights/ are written there.
        device: Where the model is.
        amp: Type that autocast computes in; float32 for none.
        state: Model, average, optimizer and what else has to be kept to continue.
        loader: Batches to learn from.
        schedule: Learning rates and accumulation.
        loss: Compares raw outputs with targets.
        network: Computes the raw outputs with `state.model`, for example in step with other processes.
        world: The processes that train together.
        prepare: Makes network input of images (B, 3, H, W) in 0..1, for example resizes them.
        validate: Evaluates a model on the validation split; `consumers` take the detections.
        draw: Probability of each training image to be drawn, by the mAP of each class; None for each image once.
        events: Takes what is worth telling.
        monitor: Watches the offsets of AKConv layers during evaluations.
        report: Told every epoch that was evaluated, and its fitness; may end the training by raising.
        save: Writes the state as a checkpoint.
        on_batch: Told the number of each batch, counted over all epochs, and the batch.
    """

    options: TrainOptions
    directory: Path
    device: torch.device
    amp: torch.dtype
    state: TrainingState
    loader: DetectionLoader
    schedule: Schedule
    loss: DetectionLoss
    network: nn.Module
    world: World
    prepare: Callable[[Tensor], Tensor]
    validate: Callable[..., Evaluation]
    draw: Callable[[list[float]], NDArray[np.float64] | None]
    events: Events
    monitor: OffsetMonitor
    report: Callable[[int, float], None]
    save: Callable[[Path], None]
    on_batch: Callable[[int, Batch], None]


def fit(training: Training) -> None:
    """Train from the epoch where the state stands to the last one, or until there is no more progress.

    Every epoch ends with a row in results.csv and, unless --nosave, with weights/last.pt. What happens later cannot
    damage them, so a run that is interrupted goes on from there.

    Raises:
        UserError: If the loss is not finite.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, between two steps.
    """
    with Interruption() as interruption:
        _fit(training, interruption)


def _fit(training: Training, interruption: Interruption) -> None:
    options, state = training.options, training.state
    for epoch in range(state.epoch, options.epochs):
        if state.stopper.stopped:
            log.info("no progress since epoch %d, so the training ends; see --patience", state.stopper.best_epoch)
            break
        training.loader.set_weights(training.draw(state.class_ap))
        losses = train_epoch(training, epoch, interruption)
        final = epoch + 1 == options.epochs or state.stopper.may_stop_next
        evaluation = _evaluate(training, epoch) if final or not options.noval else None
        row = _row(losses, evaluation, state.optimizer)
        with interruption.undisturbed():
            if training.world.is_main:
                record_epoch(training.directory / "results.csv", epoch, row)
            is_best = False
            if evaluation is not None:
                fitness = evaluation.metrics.fitness
                state.stopper.update(epoch, fitness)
                is_best = fitness >= state.best_fitness
                state.best_fitness = max(state.best_fitness, fitness)
                for measured in evaluation.metrics.per_class:
                    state.class_ap[measured.index] = measured.map
            state.epoch = epoch + 1
            if training.world.is_main and (final or not options.nosave):
                _save(training, epoch, is_best)
            training.events.scalars(epoch, row | training.monitor.scalars())  # an epoch that is saved is told
        if evaluation is not None:
            training.report(epoch, evaluation.metrics.fitness)


def _evaluate(training: Training, epoch: int) -> Evaluation:
    """Evaluate the average, watch its offsets, and show what it finds."""
    options, average = training.options, training.state.ema.model
    training.world.share_buffers(average)
    show = bool(training.events.trackers) and shows_predictions(epoch, options.epochs, options.bbox_interval)
    consumers = [PredictionPictures(training.events, epoch, average.names)] if show else []
    with training.monitor.watch(average):
        return training.validate(average, consumers=consumers)


def train_epoch(training: Training, epoch: int, interruption: Interruption) -> dict[str, float]:
    """Train on every batch once.

    A step is taken whenever enough batches have added up, and after the last batch of the epoch, so that no gradient
    is lost and the state between two epochs is complete without gradients. (YOLOv5 drops the remainder.)

    Returns:
        Mean "box", "obj" and "cls" loss.
    """
    state, device, world = training.state, training.device, training.world
    model, optimizer, scaler = state.model, state.optimizer, state.scaler
    network = training.network.train()
    autocast = torch.autocast(device.type, training.amp, enabled=training.amp != torch.float32)
    training.loader.set_epoch(epoch)
    progress = EpochProgress(training.loader, device, epoch, training.options.epochs, shown=world.is_main)
    optimizer.zero_grad()
    tiles = 4 if training.options.quad else 1  # images in one
    waiting = 0
    watch = Stopwatch(device)
    for index, batch in enumerate(interruption.steps(watch.waiting(progress.batches()))):
        iteration = epoch * len(training.loader) + index
        training.on_batch(iteration, batch)
        settings = training.schedule.at(iteration, epoch)
        images = training.prepare(batch.images.to(device, non_blocking=True).float() / 255)
        own_size = torch.tensor(0 if batch.filler else tiles * len(images)).to(device, non_blocking=True)
        waiting += 1
        steps = waiting >= settings.accumulate or index + 1 == len(training.loader)
        with apart(network, until=steps):
            with watch.stage("forward"):
                with autocast:
                    raw = network(images)
                losses = training.loss(raw, batch.targets, counts=not batch.filler)
            with watch.stage("backward"):
                scaler.scale(total_loss(losses, world.total(own_size))).backward()
        if steps:
            with watch.stage("optimizer"):
                apply_settings(optimizer, settings)
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), _LARGEST_GRADIENT)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                state.ema.update(model)
            waiting = 0
        shown = world.total(torch.stack([losses[name].detach() for name in LOSS_NAMES])) / world.size
        progress.add(dict(zip(LOSS_NAMES, shown, strict=True)), len(batch.targets), images.shape[-1])
    means = progress.means()
    log.info("%s", watch.summary())
    return means


def _row(losses: dict[str, float], evaluation: Evaluation | None, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    metrics = evaluation.metrics if evaluation else None
    row = {f"train/{name}_loss": value for name, value in losses.items()}
    row |= {f"val/{name}_loss": evaluation.losses[name] if evaluation else math.nan for name in losses}
    row |= {f"x/lr{i}": group["lr"] for i, group in enumerate(optimizer.param_groups[:3])}
    row["metrics/precision"] = metrics.precision if metrics else math.nan
    row["metrics/recall"] = metrics.recall if metrics else math.nan
    row["metrics/mAP_0.5"] = metrics.map50 if metrics else math.nan
    row["metrics/mAP_0.5:0.95"] = metrics.map if metrics else math.nan
    return row


def _save(training: Training, epoch: int, is_best: bool) -> None:
    weights = training.directory / "weights"
    best = weights / "best.pt"
    if is_best or not best.exists():  # with --nosave the best epoch may have passed unsaved
        training.save(best)
    period = training.options.save_period
    if period > 0 and epoch % period == 0:
        training.save(weights / f"epoch{epoch}.pt")
    training.save(weights / "last.pt")  # last of all: killed before, the epoch is repeated and writes the others again
