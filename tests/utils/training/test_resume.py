"""A training that was interrupted and goes on from its checkpoint ends with the same bits as one that was not."""

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from utils.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from utils.data.loader import Batch
from utils.distributed import ALONE
from utils.errors import UserError
from utils.legacy import MODEL_KEYS
from utils.training.ema import ModelEMA
from utils.training.events import Events
from utils.training.hyp import Hyp
from utils.training.input_size import resize_randomly
from utils.training.loop import Training, fit
from utils.training.loss import DetectionLoss, LossGains
from utils.training.offsets import OffsetMonitor
from utils.training.optim import build_optimizer
from utils.training.options import TrainOptions
from utils.training.schedule import Schedule
from utils.training.state import TrainingState
from utils.training.stopping import EarlyStopper

ANCHORS = torch.tensor([[[1.0, 1.5], [2.0, 2.0]]])
CFG = dict.fromkeys(("nc", *MODEL_KEYS))
HYP = Hyp(lr0=0.02, warmup_epochs=0)


class Net(nn.Module):
    """One level, two anchors, two classes; dropout draws from torch's global generator."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.SiLU(), nn.Dropout(0.1))
        self.head = nn.Conv2d(4, 14, 4, 4)

    def forward(self, images):
        logits = self.head(self.body(images))
        b, _, h, w = logits.shape
        return [logits.view(b, 2, 7, h, w).permute(0, 1, 3, 4, 2)]


class Loader:
    """Three batches whose content depends on the epoch alone."""

    epoch = 0

    def __len__(self):
        return 3

    def set_epoch(self, epoch):
        self.epoch = epoch

    def set_weights(self, weights):
        assert weights is None

    def __iter__(self):
        for number in range(len(self)):
            generator = torch.Generator().manual_seed(100 * self.epoch + number)
            images = torch.randint(0, 256, (2, 3, 16, 24), generator=generator, dtype=torch.uint8)
            targets = torch.rand(4, 6, generator=generator) * 0.5 + 0.25
            targets[:, :2] = torch.tensor([[0, 0], [0, 1], [1, 1], [1, 0]])
            yield Batch(images, targets, [], [])


class Interrupted(Exception):
    pass


def make_training(directory: Path, *, epochs=4, fitness=None, **changes) -> Training:
    torch.manual_seed(0)
    random.seed(0)
    options = TrainOptions(cfg="tiny", epochs=epochs, **changes)
    (directory / "weights").mkdir(parents=True, exist_ok=True)
    net, loader = Net(), Loader()
    state = TrainingState(
        model=net,
        ema=ModelEMA(net),
        optimizer=build_optimizer(net, options.optimizer, HYP, batch_size=32),
        scaler=torch.amp.GradScaler(enabled=False),
        stopper=EarlyStopper(options.patience),
    )

    def validate(model, consumers):
        metrics = SimpleNamespace(precision=0.5, recall=0.25, map50=0.1, map=0.05, per_class=[])
        metrics.fitness = fitness[state.epoch] if fitness else float(model.head.weight.abs().sum())
        return SimpleNamespace(metrics=metrics, losses={"box": 1.0, "obj": 2.0, "cls": 3.0})

    def save(file):
        save_checkpoint(file, Checkpoint(CFG, {}, [8.0], state.ema.model.state_dict(), state.capture()))

    return Training(
        options=options,
        directory=directory,
        device=torch.device("cpu"),
        amp=torch.float32,
        state=state,
        loader=loader,
        schedule=Schedule(HYP, epochs, len(loader), 32),
        loss=DetectionLoss(ANCHORS, 2, HYP, LossGains(1, 1, 1)),
        network=state.model,
        world=ALONE,
        prepare=lambda images: resize_randomly(images, 8) if options.multi_scale else images,
        validate=validate,
        draw=lambda class_ap: None,
        events=Events(),
        monitor=OffsetMonitor(),
        report=lambda epoch, fitness: None,
        save=save,
        on_batch=lambda number, batch: None,
    )


def read_rows(directory: Path):
    return [line.split(",") for line in (directory / "results.csv").read_text().splitlines()[1:]]


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_resumed_equals_uninterrupted(tmp_path, optimizer):
    whole = make_training(tmp_path / "whole", optimizer=optimizer, multi_scale=True)
    fit(whole)

    torch.rand(3)  # the generators stand elsewhere now
    broken = make_training(tmp_path / "broken", optimizer=optimizer, multi_scale=True)
    batches = []

    def interrupt(number, batch):
        batches.append(number)
        if number == 8:  # the last batch of the third epoch
            raise Interrupted

    with pytest.raises(Interrupted):
        fit(Training(**{**vars(broken), "on_batch": interrupt}))
    assert batches == list(range(9))
    assert len(read_rows(tmp_path / "broken")) == 2

    resumed = make_training(tmp_path / "broken", optimizer=optimizer, multi_scale=True)
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    checkpoint = read_checkpoint(tmp_path / "broken" / "weights" / "last.pt")
    resumed.state.restore(checkpoint.training, checkpoint.state, "last.pt")
    assert resumed.state.epoch == 2
    fit(resumed)

    for name, value in whole.state.model.state_dict().items():
        assert torch.equal(value, resumed.state.model.state_dict()[name]), name
    for name, value in whole.state.ema.model.state_dict().items():
        assert torch.equal(value, resumed.state.ema.model.state_dict()[name]), name
    assert whole.state.ema.updates == resumed.state.ema.updates
    assert whole.state.best_fitness == resumed.state.best_fitness
    assert (tmp_path / "whole/results.csv").read_text() == (tmp_path / "broken/results.csv").read_text()


def test_random_generators_go_on_where_they_were(tmp_path):
    training = make_training(tmp_path)
    captured = training.state.capture()
    expected = random.random(), np.random.rand(3).tolist(), torch.rand(3).tolist(), random.gauss(0, 1)
    save_checkpoint(tmp_path / "a.pt", Checkpoint(CFG, {}, [8.0], training.state.ema.model.state_dict(), captured))
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    training.state.restore(checkpoint.training, checkpoint.state, "last.pt")
    assert (random.random(), np.random.rand(3).tolist(), torch.rand(3).tolist(), random.gauss(0, 1)) == expected


def test_the_best_epoch_is_kept(tmp_path):
    fit(make_training(tmp_path, fitness=[0.1, 0.4, 0.4, 0.2], save_period=2))
    weights = tmp_path / "weights"
    assert sorted(file.name for file in weights.iterdir()) == ["best.pt", "epoch0.pt", "epoch2.pt", "last.pt"]
    epochs = {file.stem: read_checkpoint(file).training["epoch"] for file in weights.iterdir()}
    assert epochs == {"best": 3, "last": 4, "epoch0": 1, "epoch2": 3}


def test_stops_early_and_stays_stopped(tmp_path):
    fit(make_training(tmp_path, epochs=9, fitness=[0.4, 0.3, 0.2] + [0.9] * 6, patience=2))
    assert len(read_rows(tmp_path)) == 3
    again = make_training(tmp_path, epochs=9, patience=2)
    checkpoint = read_checkpoint(tmp_path / "weights" / "last.pt")
    again.state.restore(checkpoint.training, checkpoint.state, "last.pt")
    fit(again)
    assert len(read_rows(tmp_path)) == 3


def test_nosave_and_noval_leave_the_end(tmp_path):
    fit(make_training(tmp_path, fitness=[None, None, None, 0.5], nosave=True, noval=True))
    assert {file.name for file in (tmp_path / "weights").iterdir()} == {"best.pt", "last.pt"}
    rows = read_rows(tmp_path)
    assert [row[4].strip() for row in rows] == ["nan", "nan", "nan", "0.5"]
    assert read_checkpoint(tmp_path / "weights" / "best.pt").training["epoch"] == 4


def test_nosave_has_a_best_file_even_if_the_best_epoch_passed(tmp_path):
    fit(make_training(tmp_path, fitness=[0.9, 0.1, 0.1, 0.1], nosave=True))
    assert (tmp_path / "weights" / "best.pt").exists()


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(tmp_path):
    training = make_training(tmp_path)
    weight = training.state.model.head.weight

    def poison(number, batch):
        if number == 4:
            weight.data[0] = float("nan")

    with pytest.raises(UserError, match=r"not finite in epoch 1, batch 1"):
        fit(Training(**{**vars(training), "on_batch": poison}))
    checkpoint = read_checkpoint(tmp_path / "weights" / "last.pt")
    assert checkpoint.training["epoch"] == 1
    assert all(value.isfinite().all() for value in checkpoint.state.values())


def test_accumulation_takes_a_step_at_the_end_of_an_epoch(tmp_path):
    training = make_training(tmp_path, epochs=1)
    fit(training)
    assert training.state.ema.updates == 2  # two of three batches make a step, the third is not lost


def test_frozen_parameters_do_not_move(tmp_path):
    training = make_training(tmp_path, epochs=1)
    net = training.state.model
    net.body[0].weight.requires_grad = False
    before, other = net.body[0].weight.clone(), net.head.weight.clone()
    fit(training)
    assert torch.equal(net.body[0].weight, before)
    assert not torch.equal(net.head.weight, other)


def test_the_best_file_is_never_older_than_the_last(tmp_path):
    training = make_training(tmp_path, epochs=2, fitness=[0.1, 0.2])
    written = []
    fit(Training(**{**vars(training), "save": lambda file: written.append(file.stem)}))
    assert written == ["best", "last"] * 2


def damaged(captured):
    """Names of a part and captured states in which that part does not fit."""
    momenta = captured["optimizer"]["state"]
    yield "model", {**captured["model"], "head.bias": torch.zeros(3)}
    yield "model", {name: value for name, value in captured["model"].items() if name != "head.bias"}
    yield "optimizer", {}
    yield "optimizer", {**captured["optimizer"], "param_groups": captured["optimizer"]["param_groups"][:1]}
    wrong = {"momentum_buffer": torch.zeros(2, 5)}
    yield "optimizer", {**captured["optimizer"], "state": {**momenta, next(iter(momenta)): wrong}}
    groups = captured["optimizer"]["param_groups"]
    yield "optimizer", {**captured["optimizer"], "param_groups": [{**groups[0], "kind": "?"}, *groups[1:]]}
    yield "stopper", {}
    yield "stopper", {**captured["stopper"], "best_epoch": "x"}
    yield "random", {}
    yield "random", {**captured["random"], "numpy": ["MT19937", [-1], 0, 0, 0.0]}
    yield "random", {**captured["random"], "torch": torch.zeros(3)}


def test_a_state_that_does_not_fit_is_told(tmp_path):
    training = make_training(tmp_path, epochs=1)
    fit(training)
    captured, average = training.state.capture(), training.state.ema.model.state_dict()
    training.state.restore(captured, average, "last.pt")
    for key, part in damaged(captured):
        with pytest.raises(UserError, match=rf"a/last\.pt: training\['{key}'\] does not fit"):
            make_training(tmp_path, epochs=1).state.restore({**captured, key: part}, average, "a/last.pt")
