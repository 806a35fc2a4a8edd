import dataclasses

import pytest

from utils.errors import UserError
from utils.training.options import REFUSED, TrainOptions, change_options, parse_train_options, resumed_options

STORED = dataclasses.asdict(TrainOptions(cfg="yolov5n.yaml", epochs=7, imgsz=320, freeze=(3,), rect=True))


def test_spellings_of_yolov5():
    options = parse_train_options(
        [
            "--cfg",
            "a.yaml",
            "--img",
            "320",
            "--batch",
            "8",
            "--label",
            "0.1",
            "--freeze",
            "0",
            "2",
            "--cos-lr",
            "--noauto",
        ]
    )
    assert (options.imgsz, options.batch_size, options.label_smoothing) == (320, 8, 0.1)
    assert options.freeze == (0, 2)
    assert options.cos_lr
    assert options.noautoanchor
    assert parse_train_options(["--cfg", "a", "--img-size", "96"]).imgsz == 96
    assert parse_train_options(["--cfg", "a", "--batch_size", "3"]).batch_size == 3


@pytest.mark.parametrize("flag", REFUSED)
def test_what_is_missing_says_so(flag):
    with pytest.raises(UserError, match=f"{flag} is not supported"):
        parse_train_options(["--cfg", "a", flag])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "neither --weights nor --cfg"),
        (["--batch", "-2"], "expected 1 or more, or -1"),
        (["--image-weights", "--class-balanced"], "give one"),
        (["--rect", "--image-weights"], "leave it out"),
        (["--tracker", "none", "tensorboard"], "stand alone"),
        (["--cache", "tape"], "tape"),
        (["--batch", "0"], "expected 1 or more"),
        (["--epochs", "0"], "--epochs 0: expected 1 or more"),
        (["--label", "1"], "from 0 to below 1"),
        (["--optimizer", "Lion"], "SGD"),
        (["--freeze", "-2"], "--freeze"),
        (["--seed", "-1"], "--seed -1"),
        (["--img", "8193"], "8192 or less"),
        (["--img", "wide"], "wide"),
        (["--patienc3", "1"], "--patienc3"),
    ],
)
def test_mistakes(argv, message):
    with pytest.raises(UserError, match=message):
        parse_train_options([*argv, "--cfg", "a"] if argv else [])


def test_resume_takes_the_stored_options():
    assert resumed_options(STORED, ["--resume", "last.pt"]) == TrainOptions(**STORED)
    # What a checkpoint holds are lists, and repeating a stored value is no change.
    stored = {**STORED, "freeze": [3]}
    assert resumed_options(stored, ["--resume", "--imgsz", "320", "--freeze", "3"]) == TrainOptions(**STORED)


def test_resume_honours_what_can_change():
    options = resumed_options(
        STORED, ["--resume", "last.pt", "--epochs", "100", "--device", "cpu", "--workers", "0", "--data", "b.yaml"]
    )
    assert options == TrainOptions(**{**STORED, "epochs": 100, "device": "cpu", "workers": 0, "data": "b.yaml"})


@pytest.mark.parametrize("argv", ["--imgsz 640", "--batch-size 8", "--freeze 0", "--weights a.pt", "--cos-lr"])
def test_resume_refuses_other_changes_even_to_the_default(argv):
    with pytest.raises(UserError, match=f"{argv.split()[0]}.*only --data, .* --cache, --tracker can"):
        resumed_options(STORED, ["--resume", *argv.split()])


def test_changes_from_python():
    assert change_options(STORED, {"epochs": 9, "freeze": (3,)}).epochs == 9
    with pytest.raises(UserError, match="--seed 4: the run to resume has 0"):
        change_options(STORED, {"seed": 4})
