import dataclasses
import os

import pytest
import yaml

from utils.errors import UserError
from utils.training.hyp import Hyp
from utils.training.options import NEWEST, TrainOptions
from utils.training.run_files import (
    describe_run,
    find_checkpoints,
    new_run_directory,
    remove_temporaries,
)


def options(tmp_path, **changes):
    return TrainOptions(**{"cfg": "nets/tiny.yaml", "project": str(tmp_path / "runs"), **changes})


def test_a_run_is_never_overwritten(tmp_path):
    first, second = (new_run_directory(options(tmp_path)) for _ in range(2))
    assert (first.name, second.name) == ("exp", "exp2")
    assert (second / "weights").is_dir()


def test_exist_ok_takes_a_folder_without_results(tmp_path):
    folder = tmp_path / "runs" / "exp"
    folder.mkdir(parents=True)
    (folder / "notes.txt").touch()
    assert new_run_directory(options(tmp_path, exist_ok=True)) == folder


@pytest.mark.parametrize("name", ["results.csv", "opt.yaml", "hyp.yaml", "metrics.json", "weights"])
def test_exist_ok_does_not_mix_runs(tmp_path, name):
    folder = tmp_path / "runs" / "exp"
    folder.mkdir(parents=True)
    (folder / name).mkdir() if name == "weights" else (folder / name).touch()
    with pytest.raises(UserError, match=f"holds {name} of another run"):
        new_run_directory(options(tmp_path, exist_ok=True))
    assert [file.name for file in folder.iterdir()] == [name]


def test_half_written_files_are_removed(tmp_path):
    (tmp_path / "weights").mkdir()
    kept = [tmp_path / name for name in ("results.csv", "weights/last.pt", "weights/notes.tmp")]
    half = [tmp_path / name for name in (".results.csv.ab1_.tmp", "weights/.last.pt.x.tmp", "weights/.best.pt.y.tmp")]
    for file in kept + half:
        file.touch()
    remove_temporaries(tmp_path)
    assert sorted(file for file in tmp_path.rglob("*") if file.is_file()) == sorted(kept)


def test_the_name_cfg_takes_the_stem(tmp_path):
    assert new_run_directory(options(tmp_path, name="cfg")).name == "tiny"


def test_the_newest_checkpoint_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"found no last\.pt"):
        find_checkpoints(NEWEST)
    for name, age in (("b", 1), ("a", 2), ("c", 3)):
        file = tmp_path / "runs" / "train" / name / "weights" / "last.pt"
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (1e9 - age, 1e9 - age))
    assert [file.parents[1].name for file in find_checkpoints(NEWEST)] == ["b", "a", "c"]
    run = tmp_path / "runs" / "train" / "a"
    last = run / "weights" / "last.pt"
    assert find_checkpoints(str(run)) == find_checkpoints(str(last)) == [last]


def test_a_checkpoint_outside_of_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        find_checkpoints(str(tmp_path / "weights" / "last.pt"))
    (tmp_path / "last.pt").touch()
    with pytest.raises(UserError, match="--weights"):
        find_checkpoints(str(tmp_path / "last.pt"))


def test_the_description_is_complete(tmp_path):
    given = options(tmp_path, freeze=(1, 2))
    describe_run(tmp_path, given, Hyp(lr0=0.02))
    opt = yaml.safe_load((tmp_path / "opt.yaml").read_text())
    assert set(opt) == {field.name for field in dataclasses.fields(TrainOptions)} | {"save_dir"}
    assert (opt["freeze"], opt["hyp"]["lr0"], opt["save_dir"]) == ([1, 2], 0.02, str(tmp_path))
    assert yaml.safe_load((tmp_path / "hyp.yaml").read_text()) == Hyp(lr0=0.02).to_dict()
