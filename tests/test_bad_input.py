"""What a user can get wrong ends in one clear line and a non-zero status, from all three commands."""

import pickle
import zipfile

import cv2
import numpy as np
import pytest
import torch
import yaml

import detect
import train
import val
from models import Model
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.cli import run_command

TINY = {
    "nc": 2,
    "depth_multiple": 0.33,
    "width_multiple": 0.25,
    "anchors": [[10, 13, 16, 30]],
    "backbone": [[-1, 1, "Conv", [32, 3, 2]], [-1, 1, "AKConv", [64, 3, 2]]],
    "head": [[-1, 1, "Conv", [64, 3, 2]], [[-1], 1, "Detect", ["nc", "anchors"]]],
}


@pytest.fixture
def place(tmp_path):
    """A sound data set, model file and checkpoint, each of which a test then damages."""
    for split in ("train", "val"):
        for part in ("images", "labels"):
            (tmp_path / part / split).mkdir(parents=True)
        for i in range(3):
            image = np.random.default_rng(i).integers(0, 255, (48, 64, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "images" / split / f"{i}.jpg"), image)
            (tmp_path / "labels" / split / f"{i}.txt").write_text("1 0.5 0.5 0.4 0.3\n")
    data = {"path": str(tmp_path), "train": "images/train", "val": "images/val", "names": ["cat", "dog"]}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(TINY))
    model = Model(TINY)
    save_checkpoint(
        tmp_path / "model.pt", Checkpoint(model.cfg, model.names, model.stride.tolist(), model.state_dict())
    )
    return tmp_path


def run(place, capsys, command, *flags):
    usual = {
        train: ["--cfg", "model.yaml", "--data", "data.yaml", "--epochs", "1", "--batch", "2", "--noplots"],
        val: ["--weights", "model.pt", "--data", "data.yaml"],
        detect: ["--weights", "model.pt", "--source", "images/val"],
    }[command]
    argv = [*usual, "--img", "64", "--project", "runs", "--device", "cpu", *flags]
    paths = [str(place / a) if (place / a).exists() and not a.startswith("-") else a for a in argv]
    paths[paths.index("--project") + 1] = str(place / "runs")
    status = run_command(lambda: command.main(paths))
    return status, capsys.readouterr().err.strip().splitlines()


class Payload:
    def __reduce__(self):
        return (open, ("pwned", "w"))


def broken_jpeg(place):
    file = place / "images" / "train" / "1.jpg"
    file.write_bytes(file.read_bytes()[:300])
    return train, [], ["1.jpg"]


def four_columns(place):
    (place / "labels" / "train" / "1.txt").write_text("1 0.5 0.5 0.4 0.3\n1 0.5 0.5 0.4\n")
    return train, [], ["1.txt:2", "4 "]


def class_out_of_range(place):
    (place / "labels" / "val" / "2.txt").write_text("7 0.5 0.5 0.4 0.3\n")
    return val, [], ["2.txt:1", "7"]


def yaml_typo(place):
    (place / "data.yaml").write_text((place / "data.yaml").read_text().replace("train:", "trian:"))
    return train, [], ["data.yaml", "trian", "train"]


def missing_data_set(place):
    (place / "images" / "val").rename(place / "images" / "elsewhere")
    return val, [], ["images/val"]


def unknown_module(place):
    (place / "model.yaml").write_text((place / "model.yaml").read_text().replace("AKConv", "AKConf"))
    return train, [], ["layer 1", "AKConf", "AKConv"]


def wrong_weights(place):
    torch.save({"some": torch.zeros(3)}, place / "model.pt")
    return detect, [], ["model.pt"]


def hostile_pickle(place):
    with zipfile.ZipFile(place / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"model": Payload()}, protocol=2))
        archive.writestr("archive/version", "3\n")
    return val, [], ["model.pt", "open"]


def empty_val_set(place):
    for file in (place / "images" / "val").iterdir():
        file.unlink()
    return train, [], ["images/val"]


def unwritable_output(place):
    (place / "runs").write_text("a file where the folder should be")
    return detect, [], ["runs"]


def missing_weights(place):
    return detect, ["--weights", "yolov5s.pt"], ["yolov5s.pt"]


def unknown_flag(place):
    return train, ["--epocs", "3"], ["--epocs"]


def refused_flag(place):
    return train, ["--bucket", "gs"], ["--bucket", "nothing is uploaded"]


def unreadable_hyp(place):
    (place / "hyp.yaml").write_text("lr0: fast\n")
    return train, ["--hyp", "hyp.yaml"], ["hyp.yaml", "lr0", "fast"]


def missing_source(place):
    return detect, ["--source", "holiday.jpg"], ["holiday.jpg"]


def other_classes(place):
    text = (place / "data.yaml").read_text().replace("- dog", "- dog\n- cow")
    (place / "data.yaml").write_text(text)
    return val, [], ["2 classes", "3"]


CASES = [
    *(broken_jpeg, four_columns, class_out_of_range, yaml_typo, missing_data_set, unknown_module, wrong_weights),
    *(hostile_pickle, empty_val_set, unwritable_output, missing_weights, unknown_flag, refused_flag, unreadable_hyp),
    *(missing_source, other_classes),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_one_clear_line_and_a_nonzero_status(place, capsys, monkeypatch, case):
    monkeypatch.chdir(place)
    command, flags, words = case(place)
    status, lines = run(place, capsys, command, *flags)
    errors = [line for line in lines if line.startswith("error: ")]
    assert status == 1
    assert len(errors) == 1 and lines[-1] == errors[0], lines
    for word in words:
        assert word in errors[0]
    assert not (place / "pwned").exists()


@pytest.mark.parametrize("command", [train, val, detect], ids=lambda c: c.__name__)
def test_the_undamaged_place_works(place, capsys, monkeypatch, command):
    monkeypatch.chdir(place)
    status, lines = run(place, capsys, command)
    assert status == 0, lines
