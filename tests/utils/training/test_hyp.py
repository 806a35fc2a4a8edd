import logging
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.files import PROGRAM_ROOT
from utils.training.hyp import Hyp, load_hyp, parse_hyp

SHIPPED = sorted(path.name for path in (PROGRAM_ROOT / "data" / "hyps").glob("hyp.*.yaml"))


def test_all_files_of_yolov5_are_shipped():
    names = ["Objects365", "VOC", "demo", "no-augmentation", "scratch-high", "scratch-low", "scratch-med"]
    assert [f"hyp.{name}.yaml" for name in names] == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_complete(name, caplog):
    with caplog.at_level(logging.INFO):
        hyp = load_hyp(name)
    assert caplog.text == ""
    assert (hyp.anchors is not None) == (name in ("hyp.VOC.yaml", "hyp.Objects365.yaml"))


def test_scratch_low_holds_the_defaults():
    assert load_hyp("data/hyps/hyp.scratch-low.yaml") == Hyp()


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("scratch-med", "mixup", 0.1),
        ("scratch-high", "copy_paste", 0.1),
        ("scratch-high", "obj", 0.7),
        ("no-augmentation", "mosaic", 0.0),
        ("no-augmentation", "lrf", 0.1),
        ("VOC", "obj_pw", 0.67198),
        ("Objects365", "warmup_bias_lr", 0.0711),
    ],
)
def test_values(name, key, value):
    assert getattr(load_hyp(f"hyp.{name}.yaml"), key) == value


def test_missing_keys_are_told(tmp_path: Path, caplog):
    file = tmp_path / "mine.yaml"
    file.write_text("lr0: 1e-3\nmosaic: 0\n")  # YAML takes 1e-3 for text
    with caplog.at_level(logging.INFO):
        hyp = load_hyp(str(file))
    assert (hyp.lr0, hyp.mosaic, hyp.momentum) == (0.001, 0.0, 0.937)
    assert "momentum 0.937" in caplog.text
    assert "lr0" not in caplog.text
    assert "offset_lr" not in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("momentun: 0.9", "did you mean momentum"),
        ("flipup: 0.9", "did you mean flipud"),
        ("zzz: 1", "known keys: lr0"),
        ("mosaic: 1.5", "mosaic is 1.5; expected a number from 0 to 1"),
        ("lr0: -0.1", "expected a number from 0 to 1"),
        ("lr0: fast", "lr0 is 'fast'"),
        ("lr0: true", "lr0 is True"),
        ("lr0: .nan", "lr0 is nan"),
        ("lr0: [0.1]", "expected a number"),
        ("lr0:", "lr0 is None"),
    ],
)
def test_mistakes(tmp_path: Path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text + "\n")
    with pytest.raises(UserError) as caught:
        load_hyp(str(file))
    assert str(file) in str(caught.value)
    assert message in str(caught.value)


def test_dictionary_round_trip():
    hyp = Hyp(lr0=0.02, anchors=4)
    assert parse_hyp(hyp.to_dict(), "test") == hyp
    assert "anchors" not in Hyp().to_dict()
