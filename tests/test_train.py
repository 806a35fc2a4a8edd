"""train.py as its users run it, on a small data set."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import train
from models import load_model
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.files import PROGRAM_ROOT
from utils.training.resume import open_run
from utils.training.run_lock import RunLock

NET = {
    "nc": 80,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[12, 12, 18, 18], [20, 20, 26, 26]],
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "Conv", [24, 3, 2]],
        [-1, 1, "C3", [24]],
        [-1, 1, "AKConv", [32, 5, 2]],
    ],
    "head": [[[3, 4], 1, "Detect", ["nc", "anchors"]]],
}


@pytest.fixture
def workplace(rectangle_set: Callable[..., Path]) -> Path:
    """A folder with a data set of red and blue rectangles, and a small network."""
    folder = rectangle_set(train=6, val=3)
    (folder / "net.yaml").write_text(yaml.safe_dump(NET))
    return folder


def command(workplace: Path, *flags: str) -> list[str]:
    return [
        *(sys.executable, str(PROGRAM_ROOT / "train.py"), "--data", "set.yaml", "--img", "64", "--batch", "4"),
        *("--workers", "0", "--device", "cpu", "--project", str(workplace / "runs"), *flags),
    ]


def start(workplace: Path, *flags: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(workplace, *flags), cwd=workplace, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def call(workplace: Path, *flags: str) -> tuple[int, str]:
    process = start(workplace, *flags)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def wait_for_checkpoint(process: "subprocess.Popen[str]", run: Path) -> Path:
    last = run / "weights" / "last.pt"
    deadline = time.monotonic() + 300  # importing torch can take a minute on a busy machine
    while not last.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return last


def arguments(workplace: Path, **changes):
    return {
        "cfg": str(workplace / "net.yaml"),
        "data": str(workplace / "set.yaml"),
        "imgsz": 64,
        "batch_size": 4,
        "workers": 0,
        "device": "cpu",
        "project": str(workplace / "runs"),
        "noplots": True,
        **changes,
    }


@pytest.mark.parametrize(
    "flags",
    [
        {"quad": True},
        {"cache": "ram", "image_weights": True},
        {"cache": "disk", "class_balanced": True},
        {"cache": "val", "rect": True},
        {"batch_size": -1},
    ],
    ids=str,
)
def test_flags_that_change_how_it_is_learned(workplace: Path, monkeypatch, flags):
    monkeypatch.setattr("utils.data.cache.CACHE_FOLDER", workplace / "cache")
    before = sorted(str(path) for path in (workplace / "set").rglob("*"))
    evaluation = train.run(**arguments(workplace, epochs=2, **flags))
    assert 0 <= evaluation.metrics.map50 <= 1
    assert len((workplace / "runs" / "exp" / "results.csv").read_text().splitlines()) == 3
    assert sorted(str(path) for path in (workplace / "set").rglob("*")) == before


def test_anchors_are_found_for_a_model_that_only_counts_them(workplace: Path):
    (workplace / "net.yaml").write_text(yaml.safe_dump({**NET, "anchors": 2}))
    train.run(**arguments(workplace, epochs=1))
    head = load_model(workplace / "runs" / "exp" / "weights" / "best.pt").head
    anchors = head.anchors * head.stride[:, None, None]
    assert anchors.shape == (2, 2, 2)
    assert 8 < anchors.min() < anchors.max() < 40  # objects are 12 to 25 pixels
    with pytest.raises(UserError, match="says only how many there are"):
        train.run(**arguments(workplace, noautoanchor=True))


def test_tensorboard(workplace: Path):
    pytest.importorskip("tensorboard")
    train.run(**arguments(workplace, epochs=2, tracker=("tensorboard",), bbox_interval=1))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(workplace / "runs" / "exp")).Reload()
    tags = events.Tags()
    assert {"train/box_loss", "metrics/mAP_0.5", "x/lr0", "offsets/model.4/mean"} <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("train/box_loss")] == [0, 1]
    assert tags["images"]


def test_evolve(workplace: Path):
    pytest.importorskip("optuna")
    train.run(**arguments(workplace, epochs=1, evolve=2))
    folder = workplace / "runs" / "evolve"
    assert len((folder / "evolve.csv").read_text().splitlines()) == 3
    assert (folder / "hyp_evolve.yaml").is_file()
    train.run(**arguments(workplace, epochs=1, evolve=3, resume_evolve=str(folder)))
    assert len((folder / "evolve.csv").read_text().splitlines()) == 4
    assert [path.name for path in (workplace / "runs").iterdir()] == ["evolve"]


def test_bf16(workplace: Path):
    evaluation = train.run(**arguments(workplace, epochs=1, amp="bf16"))
    assert 0 <= evaluation.metrics.map50 <= 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_training_learns_the_same(workplace: Path):
    losses = []
    for flags in ({}, {"compile": True}):
        name = f"compiled{len(flags)}"
        train.run(**arguments(workplace, epochs=2, name=name, **flags))
        rows = (workplace / "runs" / name / "results.csv").read_text().splitlines()
        losses.append([float(value) for value in rows[-1].split(",")[1:4]])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_command_line(workplace: Path):
    code, output = call(workplace, "--cfg", "net.yaml", "--epochs", "2", "--freeze", "1")
    assert code == 0, output
    assert "Epoch    GPU_mem   box_loss   obj_loss   cls_loss  Instances       Size" in output
    assert "best possible recall 1.0000" in output
    folder = workplace / "runs" / "exp"
    expected = {"hyp.yaml", "opt.yaml", "labels.jpg", "labels_correlogram.jpg", "results.csv", "results.png"}
    expected |= {f"train_batch{i}.jpg" for i in range(3)} | {"val_batch0_labels.jpg", "val_batch0_pred.jpg"}
    expected |= {"confusion_matrix.png", "metrics.json", "weights"}
    assert expected <= {file.name for file in folder.iterdir()}
    rows = (folder / "results.csv").read_text().splitlines()
    assert [int(row.split(",")[0]) for row in rows[1:]] == [0, 1]
    result = json.loads((folder / "metrics.json").read_text())
    assert {"fitness", "map50", "per_class", "speed_ms"} <= set(result)
    for name in ("last", "best"):
        checkpoint = read_checkpoint(folder / "weights" / f"{name}.pt")
        assert checkpoint.training is None
        assert checkpoint.names == {0: "red", 1: "blue"}
    assert load_model(folder / "weights" / "best.pt").nc == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "neither --weights nor --cfg"),
        (["--cfg", "nett.yaml"], "nett.yaml"),
        (["--cfg", "net.yaml", "--data", "nowhere.yaml"], "nowhere.yaml"),
        (["--cfg", "net.yaml", "--freeze", "0", "9"], "layer 9 does not exist"),
        (["--cfg", "net.yaml", "--freeze", "1000000000"], "--freeze 1000000000: the model has only 6 layers"),
        (["--cfg", "net.yaml", "--hyp", "hyp.scratch-lo.yaml"], "hyp.scratch-low.yaml"),
        (["--weights", "missing.pt"], "missing.pt"),
        (["--resume"], "found no last.pt"),
        (["--bucket", "gs", "--cfg", "net.yaml"], "--bucket is not supported"),
        (["--cfg", "net.yaml", "--sync-bn"], "--sync-bn needs several processes"),
        (["--cfg", "net.yaml", "--amp", "fp16"], "--amp fp16 needs a CUDA GPU"),
        (["--resume-evolve", "nowhere", "--cfg", "net.yaml"], "no evolve.db"),
    ],
)
def test_mistakes_are_told_before_a_run_folder_is_made(workplace: Path, monkeypatch, flags, message):
    monkeypatch.chdir(workplace)
    with pytest.raises(UserError) as caught:
        train.main(command(workplace, *flags)[2:])
    assert message in str(caught.value)
    assert not (workplace / "runs").exists()


def test_a_mistake_is_one_line_on_the_console(workplace: Path):
    code, output = call(workplace)
    assert code == 1
    assert output.startswith("error: neither --weights nor --cfg is given")
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize("flag", ["cfg", "weights", "hyp", "project"])
def test_files_are_checked_before_the_data_set(workplace: Path, monkeypatch, flag):
    monkeypatch.setattr("utils.training.data.load_dataset_config", lambda _: pytest.fail("the data set was read"))
    (workplace / "file").touch()
    value = str(workplace / {"weights": "no.pt", "project": "file"}.get(flag, "no.yaml"))
    with pytest.raises(UserError, match=Path(value).name):
        train.run(**arguments(workplace, **{flag: value}))


def test_a_missing_val_is_told_before_train_is_read(workplace: Path, monkeypatch):
    monkeypatch.setattr("utils.training.data.scan_samples", lambda *_, **__: pytest.fail("images were read"))
    shutil.rmtree(workplace / "set" / "images" / "val")
    with pytest.raises(UserError, match=r"val: .*val does not exist"):
        train.run(**arguments(workplace))


@pytest.mark.parametrize("changes", [{"amp": "fp16"}, {"sync_bn": True}])
def test_what_the_device_cannot_do_is_told_before_the_data_set_is_read(workplace: Path, monkeypatch, changes):
    monkeypatch.setattr("utils.training.data.load_dataset_config", lambda _: pytest.fail("the data set was read"))
    with pytest.raises(UserError, match="CUDA GPU"):
        train.run(**arguments(workplace, **changes))


def test_a_model_that_cannot_be_trained(workplace: Path):
    (workplace / "net.yaml").write_text(yaml.safe_dump({**NET, "ch": 4}))
    with pytest.raises(UserError, match=r"net\.yaml: .*ch 4 channels"):
        train.run(**arguments(workplace))
    assert not (workplace / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_step_and_says_how_to_go_on(workplace: Path, number, status):
    process = start(workplace, "--cfg", "net.yaml", "--epochs", "5000", "--noplots")
    last = wait_for_checkpoint(process, workplace / "runs" / "exp")
    process.send_signal(number)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status
    assert f"--resume {last}" in output
    assert "Traceback" not in output


def test_a_stop_before_the_first_epoch_says_that_nothing_can_be_resumed(workplace: Path, monkeypatch, caplog):
    def interrupted(training):
        raise KeyboardInterrupt

    caplog.set_level("INFO")
    monkeypatch.setattr(train, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.run(**arguments(workplace))
    assert "no epoch is complete, so there is nothing to go on with" in caplog.text


@pytest.mark.slow
def test_a_signal_to_all_processes_is_for_the_one_that_trains(workplace: Path):
    process = subprocess.Popen(
        [*command(workplace, "--cfg", "net.yaml", "--epochs", "5000", "--noplots", "--workers", "2")], cwd=workplace,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    last = wait_for_checkpoint(process, workplace / "runs" / "exp")
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 143, output
    assert f"--resume {last}" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_it_ends_like_an_unbroken_run(workplace: Path):
    flags = ("--cfg", "net.yaml", "--epochs", "25", "--noplots", "--multi-scale")
    code, output = call(workplace, *flags, "--name", "whole")
    assert code == 0, output
    process = start(workplace, *flags, "--name", "broken")
    last = wait_for_checkpoint(process, workplace / "runs" / "broken")
    time.sleep(float(np.random.default_rng().uniform(0, 0.5)))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    process = start(workplace, "--resume", str(last), "--img", "64")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    whole = read_checkpoint(last.parents[2] / "whole" / "weights" / "last.pt")
    for name, value in read_checkpoint(last).state.items():
        assert torch.equal(value, whole.state[name]), name
    table = last.parents[1] / "results.csv"
    assert table.read_text() == (last.parents[2] / "whole" / "results.csv").read_text()


class Stop(Exception):
    pass


@pytest.fixture
def unfinished(workplace: Path, monkeypatch) -> Path:
    """The last.pt of a run that was stopped in its third epoch of four."""
    record, calls = train.Training, []

    def interrupting(**fields):
        def on_batch(number, batch):
            calls.append(number)
            if number == 5:
                raise Stop

        return record(**{**fields, "on_batch": on_batch})

    with monkeypatch.context() as patch:
        patch.setattr(train, "Training", interrupting)
        with pytest.raises(Stop):
            train.run(**arguments(workplace, epochs=4))
    return workplace / "runs" / "exp" / "weights" / "last.pt"


def test_resume_honours_or_refuses_but_never_ignores(workplace: Path, unfinished: Path):
    with pytest.raises(UserError, match="--imgsz 96: the run to resume has 64"):
        train.run(resume=str(unfinished), imgsz=96)
    with pytest.raises(UserError, match="has completed 2 epochs"):
        train.run(resume=str(unfinished), epochs=1)
    train.run(resume=str(unfinished), epochs=3)
    assert len((unfinished.parents[1] / "results.csv").read_text().splitlines()) == 1 + 3
    with pytest.raises(UserError, match="its training is finished"):
        train.run(resume=str(unfinished))


def test_a_table_that_lost_epochs_is_told(workplace: Path, unfinished: Path, caplog):
    (unfinished.parents[1] / "results.csv").unlink()
    train.run(resume=str(unfinished), epochs=3)
    assert "results.csv: found 0 of 2 epochs" in caplog.text


def test_a_changed_checkpoint_or_table_is_told_before_anything_is_written(workplace: Path, unfinished: Path):
    run = unfinished.parents[1]
    checkpoint = read_checkpoint(unfinished)
    (run / "opt.yaml").write_text("of the first start")
    name = next(iter(checkpoint.state))
    for changes in (
        {"state": {**checkpoint.state, name: torch.ones(3)}},
        {"training": {**checkpoint.training, "optimizer": {}}},
    ):
        save_checkpoint(unfinished, dataclasses.replace(checkpoint, **changes))
        with pytest.raises(UserError, match=r"last\.pt: "):
            train.run(resume=str(run))
    save_checkpoint(unfinished, checkpoint)
    with (run / "results.csv").open("a") as table:
        table.write("garbage\n")
    with pytest.raises(UserError, match=r"results\.csv:4: found 'garbage'"):
        train.run(resume=str(run))
    assert (run / "opt.yaml").read_text() == "of the first start"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"epoch": 1}, "epoch: no such option; did you mean epochs?"),
        ({"epochs": "1"}, "epochs='1': expected int"),
        ({"tracker": "none"}, "tracker='none': expected tuple, such as"),
        ({"freeze": 2}, "freeze=2: expected tuple"),
    ],
)
def test_mistakes_from_python_are_told(workplace: Path, flags, message):
    with pytest.raises(UserError, match=re.escape(message)):
        train.run(**arguments(workplace, **flags))


def test_a_run_that_is_being_trained_is_not_resumed(workplace: Path, unfinished: Path, monkeypatch):
    folder, another = unfinished.parents[1], workplace / "runs" / "another"
    shutil.copytree(folder, another)
    os.utime(unfinished)
    monkeypatch.chdir(workplace)
    assert open_run("newest").directory == folder
    with RunLock() as lock:
        lock.take(folder)
        with pytest.raises(UserError, match="another process is training this run"):
            train.main(["--resume", str(folder)])
        assert open_run("newest").directory == another


@pytest.mark.parametrize(
    ("wished", "images", "processes", "batch"), [(16, 7, 1, 7), (16, 7, 2, 6), (4, 100, 2, 4), (6, 2, 2, 2)]
)
def test_a_batch_is_cut_to_the_images_there_are(wished, images, processes, batch):
    assert train.shared_batch(wished, images, processes) == batch


def test_more_processes_than_images_are_told():
    with pytest.raises(UserError, match="found 2 training images, too few for 3 processes"):
        train.shared_batch(3, 2, 3)


def test_resume_needs_the_same_classes(workplace: Path, unfinished: Path):
    content = yaml.safe_load((workplace / "set.yaml").read_text())
    (workplace / "other.yaml").write_text(yaml.safe_dump({**content, "names": ["red", "green"]}))
    with pytest.raises(UserError, match="its classes"):
        train.run(resume=str(unfinished), data=str(workplace / "other.yaml"))


def test_starting_from_weights(workplace: Path, caplog):
    caplog.set_level("INFO")
    train.run(**arguments(workplace, epochs=1))
    best = str(workplace / "runs" / "exp" / "weights" / "best.pt")
    train.run(**arguments(workplace, epochs=1, weights=best, cfg="", optimizer="AdamW", cos_lr=True, rect=True))
    assert "took 61 of 61 tensors" in caplog.text
    caplog.clear()
    train.run(**arguments(workplace, epochs=1, weights=best, single_cls=True, label_smoothing=0.1, multi_scale=True))
    assert "left as asked: model.5.* (1)" in caplog.text
    assert "left for another shape: model.5.*" in caplog.text
    assert load_model(workplace / "runs" / "exp3" / "weights" / "best.pt").names == {0: "item"}


def test_weights_that_do_not_fit_at_all(workplace: Path):
    train.run(**arguments(workplace, epochs=1))
    head = [[[0], 1, "Detect", ["nc", "anchors"]]]
    other = {**NET, "anchors": [[9, 9]], "backbone": [[-1, 1, "Conv", [7, 5, 8]]], "head": head}
    (workplace / "other.yaml").write_text(yaml.safe_dump(other))
    best = str(workplace / "runs" / "exp" / "weights" / "best.pt")
    with pytest.raises(UserError, match=r"no weight of it fits into .*yaml; give"):
        train.run(**arguments(workplace, weights=best, cfg=str(workplace / "other.yaml")))


@pytest.mark.slow
def test_a_few_images_are_learned_by_heart(workplace: Path):
    content = yaml.safe_load((workplace / "set.yaml").read_text())
    (workplace / "set.yaml").write_text(yaml.safe_dump({**content, "val": "images/train"}))
    changes = {"epochs": 150, "optimizer": "AdamW", "hyp": "hyp.no-augmentation.yaml"}
    evaluation = train.run(**arguments(workplace, **changes))
    assert evaluation.metrics.map50 > 0.9
