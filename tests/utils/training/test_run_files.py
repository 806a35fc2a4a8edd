import dataclasses
import os

import pytest
import yaml

from utils.errors import UserError
from utils.training.hyp import Hyp
from utils.training.options import NEWEST, TrainOptions
from utils.training.run_files import describe_run, find_checkpoint, new_run_directory


def options(tmp_path, **changes):
    return TrainOptions(**{"cfg": "nets/tiny.yaml", "project": str(tmp_path / "runs"), **changes})


def test_a_run_is_never_overwritten(tmp_path):
    first, second = (new_run_directory(options(tmp_path)) for _ in range(2))
    assert (first.name, second.name) == ("exp", "exp2")
    assert (second / "weights").is_dir()
    assert new_run_directory(options(tmp_path, exist_ok=True)) == first
    (first / "weights" / "last.pt").touch()
    with pytest.raises(UserError, match=r"last\.pt belongs to another training"):
        new_run_directory(options(tmp_path, exist_ok=True))


def test_the_name_cfg_takes_the_stem(tmp_path):
    assert new_run_directory(options(tmp_path, name="cfg")).name == "tiny"


def test_the_newest_checkpoint_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"found no last\.pt"):
        find_checkpoint(NEWEST)
    for name, age in (("b", 1), ("a", 2), ("c", 3)):
        file = tmp_path / "runs" / "train" / name / "weights" / "last.pt"
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (1e9 - age, 1e9 - age))
    assert find_checkpoint(NEWEST).parents[1].name == "b"


def test_a_checkpoint_outside_of_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        find_checkpoint(str(tmp_path / "weights" / "last.pt"))
    (tmp_path / "last.pt").touch()
    with pytest.raises(UserError, match="--weights"):
        find_checkpoint(str(tmp_path / "last.pt"))


def test_the_description_is_complete(tmp_path):
    given = options(tmp_path, freeze=(1, 2))
    describe_run(tmp_path, given, Hyp(lr0=0.02))
    opt = yaml.safe_load((tmp_path / "opt.yaml").read_text())
    assert set(opt) == {field.name for field in dataclasses.fields(TrainOptions)} | {"save_dir"}
    assert (opt["freeze"], opt["hyp"]["lr0"], opt["save_dir"]) == ([1, 2], 0.02, str(tmp_path))
    assert yaml.safe_load((tmp_path / "hyp.yaml").read_text()) == Hyp(lr0=0.02).to_dict()
