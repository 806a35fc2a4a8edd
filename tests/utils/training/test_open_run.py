import copy
import dataclasses
import os

import pytest
import torch

from utils.checkpoint import Checkpoint, save_checkpoint
from utils.errors import UserError
from utils.legacy import MODEL_KEYS
from utils.training.options import NEWEST, TrainOptions
from utils.training.resume import open_run

TRAINING = {
    "options": dataclasses.asdict(TrainOptions(cfg="a.yaml", label_smoothing=0)),
    "hyp": {},
    "model": {},
    "ema_updates": 3,
    "optimizer": {},
    "scaler": {},
    "stopper": {},
    "epoch": 1,
    "best_fitness": 0.5,
    "class_ap": [0.25],
    "random": {},
}


def write(folder, training, age=0):
    file = folder / "weights" / "last.pt"
    file.parent.mkdir(parents=True)
    cfg = dict.fromkeys(("nc", *MODEL_KEYS))
    save_checkpoint(file, Checkpoint(cfg, {0: "a"}, [8.0], {"w": torch.ones(2, 3)}, training))
    os.utime(file, (1e9 - age, 1e9 - age))
    return file


def test_bare_resume_skips_finished_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    newest = write(tmp_path / "runs" / "a", None, age=1)
    with pytest.raises(UserError, match=f"{newest}: its training is finished, nothing"):
        open_run(NEWEST)
    older = write(tmp_path / "runs" / "b", TRAINING, age=2)
    write(tmp_path / "runs" / "c", TRAINING, age=3)
    resume = open_run(NEWEST)
    assert (resume.file, resume.directory) == (older, tmp_path / "runs" / "b")
    assert open_run("runs/c").directory == tmp_path / "runs" / "c"


def test_all_runs_finished(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        write(tmp_path / "runs" / name, None)
    with pytest.raises(UserError, match="and so is that of 2 older runs"):
        open_run(NEWEST)


@pytest.mark.parametrize("key", TRAINING)
def test_a_missing_part_is_named(tmp_path, key):
    file = write(tmp_path, {name: value for name, value in TRAINING.items() if name != key})
    with pytest.raises(UserError, match=f"{file}: training has no '{key}'"):
        open_run(str(file))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["epoch"], "x", r"training\['epoch'\] is 'x', expected int"),
        (["epoch"], -5, r"training\['epoch'\] is -5, expected 0 or more"),
        (["optimizer"], [], r"training\['optimizer'\] is a list, expected dict"),
        (["options", "epochs"], "7", r"training\['options'\]\['epochs'\] is '7', expected int"),
        (["options", "later"], 1, "unknown key 'later'"),
        (["options", "freeze"], ["a"], "no list of whole numbers"),
        (["options", "freeze"], [], "no list of whole numbers"),
    ],
)
def test_a_wrong_part_is_named(tmp_path, path, value, message):
    training = copy.deepcopy(TRAINING)
    place = training["options"] if path[0] == "options" else training
    place[path[-1]] = value
    with pytest.raises(UserError, match=message):
        open_run(str(write(tmp_path, training)))
