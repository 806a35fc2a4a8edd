import logging
import math
import os
import subprocess
import sys

import pytest

from utils.errors import UserError
from utils.files import PROGRAM_ROOT
from utils.show import evolution_plot
from utils.training.evolve import evolve
from utils.training.hyp import Hyp, load_hyp
from utils.training.progress import LossNotFinite

BASE = Hyp(lr0=0.03)
EPOCHS = 4


def train(hyp, report):
    """Best where lr0 is 0.012 and nothing is turned."""
    fitness = 1 - abs(math.log(hyp.lr0 / 0.012)) / 4 - hyp.degrees / 100
    for epoch in range(EPOCHS):
        report(epoch, fitness * (epoch + 1) / EPOCHS)
    return fitness


@pytest.fixture
def optuna():
    return pytest.importorskip("optuna")


@pytest.fixture
def no_plot(monkeypatch):
    monkeypatch.setattr(evolution_plot, "save_evolution_plot", lambda *_: None)


def rows(directory):
    lines = (directory / "evolve.csv").read_text().splitlines()
    header = [cell.strip() for cell in lines[0].split(",")]
    assert all(len(cell) == 20 for line in lines for cell in line.split(","))
    return [dict(zip(header, map(str.strip, line.split(",")), strict=True)) for line in lines[1:]]


def test_finds_better_ones_and_writes_them_down(optuna, no_plot, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    tried = []
    best = evolve(tmp_path, BASE, 12, EPOCHS, lambda hyp, report: tried.append(hyp) or train(hyp, report), seed=1)
    assert tried[0] == BASE
    assert len(tried) == 12
    assert train(best, lambda *_: None) == max(train(hyp, lambda *_: None) for hyp in tried)
    assert train(best, lambda *_: None) > train(BASE, lambda *_: None)
    assert load_hyp(str(tmp_path / "hyp_evolve.yaml")) == best
    table = rows(tmp_path)
    assert [int(row["trial"]) for row in table] == list(range(12))
    assert {row["state"] for row in table} == {"complete", "pruned"}
    for row, hyp in zip(table, tried, strict=True):
        assert float(row["lr0"]) == hyp.lr0
        assert row["state"] == "pruned" or row["epochs"] == str(EPOCHS)
    number = max(table, key=lambda row: float(row["fitness"]))["trial"]
    first = (tmp_path / "hyp_evolve.yaml").read_text().splitlines()[0]
    assert first.startswith(f"# The best of 12 trainings: trial {number} with fitness 0.")
    assert "training 12 of 12" in caplog.text
    assert not any(record.name.startswith("optuna") for record in caplog.records)


def test_hopeless_trainings_end_early_and_good_ones_do_not(optuna, no_plot, tmp_path):
    epochs = []

    def trial(hyp, report):
        bad = len(epochs) in (6, 7)
        epochs.append(0)
        for epoch in range(8):
            report(epoch, 0.01 if bad else 0.5 + 0.01 * epoch)
            epochs[-1] += 1
        return 0.6

    evolve(tmp_path, BASE, 9, 8, trial)
    assert epochs == [8, 8, 8, 8, 8, 8, 2, 2, 8]  # not in the first quarter


def test_the_same_seed_proposes_the_same(optuna, no_plot, tmp_path):
    found = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        (tmp_path / name).mkdir()
        evolve(tmp_path / name, BASE, 3, EPOCHS, train, seed=seed)
        found.append([row["lr0"] for row in rows(tmp_path / name)])
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_interrupted_and_resumed(optuna, no_plot, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    tried = []

    def until(count):
        def trial(hyp, report):
            if len(tried) == count:
                raise KeyboardInterrupt
            tried.append(hyp)
            return train(hyp, report)

        return trial

    with pytest.raises(KeyboardInterrupt):
        evolve(tmp_path, BASE, 6, EPOCHS, until(0))  # in the first: the start has still to be trained
    with pytest.raises(KeyboardInterrupt):
        evolve(tmp_path, BASE, 6, EPOCHS, until(2))
    assert "can go on in" in caplog.text
    assert len(rows(tmp_path)) == 2
    evolve(tmp_path, BASE, 6, EPOCHS, until(99))
    assert len(rows(tmp_path)) == 6
    assert len({hyp.lr0 for hyp in tried}) == 6
    assert tried[0] == BASE
    evolve(tmp_path, BASE, 4, EPOCHS, until(6))  # nothing is left to do
    evolve(tmp_path, BASE, 7, EPOCHS, until(99))
    assert len(tried) == 7


def test_killed_and_resumed(optuna, no_plot, tmp_path):
    script = f"""
import os, sys
from pathlib import Path
from utils.training.evolve import evolve
from utils.training.hyp import Hyp
evolve(Path({str(tmp_path)!r}), Hyp(lr0=0.03), 3, 4, lambda hyp, report: os._exit(9))
"""
    environment = os.environ | {"PYTHONPATH": str(PROGRAM_ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, timeout=60)
    assert done.returncode == 9
    evolve(tmp_path, BASE, 3, EPOCHS, train)
    table = rows(tmp_path)
    assert len(table) == 3
    assert float(table[0]["lr0"]) == BASE.lr0


def test_a_loss_that_is_not_finite_ends_only_that_training(optuna, no_plot, tmp_path, caplog):
    tried = []

    def trial(hyp, report):
        tried.append(hyp)
        if len(tried) == 2:
            raise LossNotFinite("the loss is not finite in epoch 0")
        return train(hyp, report)

    evolve(tmp_path, BASE, 3, EPOCHS, trial)
    assert [row["state"] for row in rows(tmp_path)] == ["complete", "pruned", "complete"]
    assert "not finite in epoch 0" in caplog.text

    def never(hyp, report):
        raise LossNotFinite("no")

    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="none of the trainings came to its end"):
        evolve(tmp_path / "other", BASE, 2, EPOCHS, never)


def test_a_mistake_of_the_user_is_passed_on_and_mended(optuna, no_plot, tmp_path):
    def trial(hyp, report):
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="disk is full"):
        evolve(tmp_path, BASE, 2, EPOCHS, trial)
    evolve(tmp_path, BASE, 2, EPOCHS, train)
    assert len(rows(tmp_path)) == 2


def test_another_start_is_another_search(optuna, no_plot, tmp_path):
    evolve(tmp_path, BASE, 1, EPOCHS, train)
    with pytest.raises(UserError, match=r"began with other hyperparameters \(box, lr0\); use the same --hyp"):
        evolve(tmp_path, Hyp(lr0=0.02, box=0.1), 2, EPOCHS, train)


def test_a_search_goes_on_with_the_same_settings_and_number_of_trainings(optuna, no_plot, tmp_path):
    settings = {"data": "a.yaml", "imgsz": 64, "freeze": (0,)}
    evolve(tmp_path, BASE, 2, EPOCHS, train, settings=settings)
    evolve(tmp_path, BASE, 0, EPOCHS, train, settings=settings)
    assert len(rows(tmp_path)) == 2
    with pytest.raises(UserError, match=r"--imgsz 64, now 96"):
        evolve(tmp_path, BASE, 3, EPOCHS, train, settings=settings | {"imgsz": 96})
    assert len(rows(tmp_path)) == 2


def test_plot(optuna, tmp_path):
    evolve(tmp_path, BASE, 1, EPOCHS, train)
    assert (tmp_path / "evolve.png").read_bytes().startswith(b"\x89PNG")


def test_without_optuna(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"--evolve needs Optuna .*pip install optuna$"):
        evolve(tmp_path, BASE, 1, EPOCHS, train)
    assert list(tmp_path.iterdir()) == []
