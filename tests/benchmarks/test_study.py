import csv
import json
import sys

import pytest
import yaml

from benchmarks import study
from benchmarks.study_report import spread
from utils.errors import UserError

NET = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[12, 12, 18, 18]],
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [12, 3, 2]]],
    "head": [[[1], 1, "Detect", ["nc", "anchors"]]],
}


@pytest.fixture
def arguments(rectangle_set, monkeypatch):
    folder = rectangle_set(train=4, val=2)
    for name, module in (("plain", "Conv"), ("bent", "AKConv")):
        net = {**NET, "backbone": [NET["backbone"][0], [-1, 1, module, [12, 3, 2]]]}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(net))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    models = [str(folder / name) for name in ("plain", "bent")]
    place = ["--data", str(folder / "set.yaml"), "--project", str(folder / "study"), "--device", "cpu"]
    return [*place, "--models", *models, "--imgsz", "64", "--batch-size", "2", "--epochs", "2", "--name", "small"]


@pytest.mark.slow
def test_a_study_trains_compares_and_goes_on(arguments, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "study" / "small"
    study.main([*arguments, "--seeds", "3", "--jobs", "2"])
    assert f"| {tmp_path / 'bent'} | 1 |" in capsys.readouterr().out
    with (folder / "runs.csv").open() as stream:
        first = list(csv.DictReader(stream))
    for row in first:
        name = row["model"].rpartition("/")[2]
        metrics = json.loads((folder / f"{name}-seed3" / "evaluation" / "metrics.json").read_text())
        assert float(row["map50"]) == pytest.approx(metrics["map50"], abs=1e-5) and float(row["seconds"]) > 0
    assert (folder / "curves.png").stat().st_size > 10_000
    trained = (folder / "plain-seed3" / "weights" / "best.pt").stat().st_mtime_ns

    monkeypatch.setattr(sys, "executable", "/bin/false")  # nothing is left to run
    study.main([*arguments, "--seeds", "3"])
    assert (folder / "plain-seed3" / "weights" / "best.pt").stat().st_mtime_ns == trained

    with pytest.raises(UserError, match="epochs 2, now 5"):
        study.main([*arguments, "--epochs", "5"])


def test_a_run_that_fails_names_its_log(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError, match=r"train\.py ended with status 1; see .*plain-seed0\.log"):
        study.main(arguments)


def test_a_run_without_a_checkpoint_starts_again_and_damaged_settings_are_named(arguments, tmp_path, monkeypatch):
    folder = tmp_path / "study" / "small"
    (folder / "plain-seed0" / "weights").mkdir(parents=True)
    (folder / "plain-seed0" / "opt.yaml").touch()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError, match=r"train\.py ended"):
        study.main(arguments)
    assert not (folder / "plain-seed0").exists()
    (folder / "study.json").write_text("{}")
    with pytest.raises(UserError, match=r"study\.json: not the settings of a study"):
        study.main(arguments)


def test_models_are_checked_before_anything_is_made(arguments, tmp_path):
    with pytest.raises(UserError, match=r"nope\.yaml: no such file"):
        study.main([*arguments, "--models", "yolov5n", "nope"])
    assert not (tmp_path / "study").exists()


def test_mean_and_spread():
    assert spread([0.25]) == "0.250"
    assert spread([0.1, 0.3], sign="+") == "+0.200 ± 0.141"
    assert spread([]) == "-"
