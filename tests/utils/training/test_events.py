import importlib.util
import logging
import math
import sys
import types

import numpy as np
import pytest

from utils.errors import UserError
from utils.training.events import TRACKER_CHOICES, Events, check_trackers, open_events
from utils.training.trackers import TRACKERS, Run, Wandb

PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
CONFIG = {"epochs": 3, "hyp/lr0": 0.01}


class Recorder:
    """Takes any call of any attribute and writes it down; what it returns does so too."""

    def __init__(self, calls, path):
        self.calls, self.path = calls, path

    def __getattr__(self, name):
        return Recorder(self.calls, f"{self.path}.{name}")

    def __call__(self, *args, **kwargs):
        self.calls.append((self.path, args, kwargs))
        return Recorder(self.calls, f"{self.path}()")


@pytest.fixture
def told(monkeypatch, tmp_path):
    """Tell one epoch to a fake package; what was called, by name."""

    def tell(name):
        module, calls = TRACKERS[name].module, []
        fake = types.ModuleType(module)
        fake.__getattr__ = lambda attribute: Recorder(calls, attribute)
        monkeypatch.setitem(sys.modules, module, fake)
        directory = tmp_path / "helmets" / "exp2"
        directory.mkdir(parents=True)
        events = open_events(directory, [name], config=CONFIG, first_step=7)
        events.scalars(7, {"train/box_loss": 0.5, "metrics/mAP_0.5:0.95": np.float32(0.25), "val/obj_loss": math.nan})
        events.images(7, "predictions/00_cat", PICTURE)
        events.close()
        assert len({path for path, *_ in calls}) > 2
        return directory, calls

    return tell


def only(calls, path):
    found = [(args, kwargs) for name, args, kwargs in calls if name == path]
    assert len(found) == 1, calls
    return found[0]


def is_picture(array):
    return isinstance(array, np.ndarray) and np.array_equal(array, PICTURE)


def test_tensorboard_calls(told):
    directory, calls = told("tensorboard")
    assert calls[0] == ("SummaryWriter", (), {"log_dir": str(directory), "purge_step": 7})
    assert [args for path, args, _ in calls if path.endswith("add_scalar")] == [
        ("train/box_loss", 0.5, 7),
        ("metrics/mAP_0.5:0.95", 0.25, 7),
    ]
    (tag, picture, step), kwargs = only(calls, "SummaryWriter().add_image")
    assert (tag, step, kwargs) == ("predictions/00_cat", 7, {"dataformats": "HWC"})
    assert is_picture(picture)
    assert calls[-1][0] == "SummaryWriter().close"


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_calls(told, name):
    directory, calls = told(name)
    settings = {"project": "helmets", "name": "exp2", "config": CONFIG}
    more = {"resume": "allow"}
    if name == "wandb":
        more |= {"dir": str(directory), "id": (directory / "tracker_id.txt").read_text().strip()}
    assert calls[0] == ("init", (), settings | more)
    assert calls[1] == ("log", ({"train/box_loss": 0.5, "metrics/mAP_0.5:0.95": 0.25},), {"step": 7})
    ((picture,), _) = only(calls, "Image")
    assert is_picture(picture)
    path, (logged,), kwargs = calls[3]
    assert (path, list(logged), kwargs) == ("log", ["predictions/00_cat"], {"step": 7})
    assert calls[-1] == ("finish", (), {})


def test_mlflow_calls(told):
    _, calls = told("mlflow")
    assert calls[:3] == [
        ("set_experiment", ("helmets",), {}),
        ("start_run", (), {"run_name": "exp2"}),
        ("log_params", (CONFIG,), {}),
    ]
    assert only(calls, "log_metrics") == (({"train/box_loss": 0.5, "metrics/mAP_0.5-0.95": 0.25},), {"step": 7})
    (picture, file), _ = only(calls, "log_image")
    assert is_picture(picture)
    assert file == "predictions/00_cat/00007.png"
    assert calls[-1] == ("end_run", (), {})


def test_clearml_calls(told):
    _, calls = told("clearml")
    (args, kwargs) = only(calls, "Task.init")
    assert args == ()
    assert kwargs == {
        "project_name": "helmets",
        "task_name": "exp2",
        "reuse_last_task_id": False,
        "auto_connect_arg_parser": False,
        "auto_connect_frameworks": False,
        "auto_connect_streams": False,
        "auto_resource_monitoring": False,
    }
    assert only(calls, "Task.init().connect") == ((CONFIG,), {})
    assert [kwargs for path, _, kwargs in calls if path.endswith("report_scalar")] == [
        {"title": "train", "series": "box_loss", "value": 0.5, "iteration": 7},
        {"title": "metrics", "series": "mAP_0.5:0.95", "value": 0.25, "iteration": 7},
    ]
    _, kwargs = only(calls, "Task.init().get_logger().report_image")
    assert is_picture(kwargs.pop("image"))
    assert kwargs == {"title": "predictions", "series": "00_cat", "iteration": 7}
    assert calls[-1][0] == "Task.init().close"


def test_comet_calls(told):
    _, calls = told("comet")
    _, kwargs = only(calls, "ExperimentConfig")
    assert set(kwargs.values()) == {False}  # it records on its own accord whatever is not switched off
    _, kwargs = only(calls, "start")
    assert kwargs["project_name"] == "helmets"
    assert kwargs["experiment_config"].path == "ExperimentConfig()"
    assert only(calls, "start().set_name") == (("exp2",), {})
    assert only(calls, "start().log_parameters") == ((CONFIG,), {})
    metrics = {"train/box_loss": 0.5, "metrics/mAP_0.5:0.95": 0.25}
    assert only(calls, "start().log_metrics") == ((metrics,), {"step": 7})
    (picture,), kwargs = only(calls, "start().log_image")
    assert is_picture(picture)
    assert kwargs == {"name": "predictions/00_cat", "step": 7}
    assert calls[-1][0] == "start().end"


def test_no_tracker_does_nothing(tmp_path):
    for events in (Events(), open_events(tmp_path, []), open_events(tmp_path, ["none"])):
        events.scalars(0, {"a": 1.0})
        events.images(0, "a", PICTURE)
        events.close()
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_not_finite_are_left_out():
    class Kept:
        def scalars(self, step, values):
            told.append(values)

    told = []
    Events([Kept()]).scalars(0, {"a": math.nan, "b": math.inf})
    assert told == []


@pytest.fixture
def nothing_installed(monkeypatch):
    for tracker in TRACKERS.values():
        monkeypatch.setitem(sys.modules, tracker.module, None)


@pytest.mark.parametrize("name", TRACKERS)
def test_what_is_asked_for_and_not_installed_is_named(nothing_installed, tmp_path, name):
    package = TRACKERS[name].package
    with pytest.raises(UserError, match=rf"--tracker {name}: {package} cannot .* with: pip install {package}$"):
        check_trackers([name])
    with pytest.raises(UserError):
        open_events(tmp_path, [name])


def test_without_tensorboard_one_hint(nothing_installed, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    check_trackers(["auto"])
    assert open_events(tmp_path, ["auto"]).trackers == ()
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "pip install tensorboard" in caplog.text


@pytest.mark.parametrize("names", [["none", "wandb"], ["auto", "wandb"], ["tensorbord"]])
def test_names_that_make_no_sense(names):
    with pytest.raises(UserError, match="--tracker"):
        check_trackers(names)


def test_choices():
    assert TRACKER_CHOICES == ("auto", "none", "tensorboard", "wandb", "mlflow", "clearml", "comet", "trackio")


def test_nothing_is_imported_unasked():
    for name in ("wandb", "mlflow", "clearml", "comet_ml", "trackio"):
        assert name not in sys.modules


def test_an_open_tracker_is_closed_when_the_next_fails(monkeypatch, tmp_path):
    calls = []
    for name in ("wandb", "trackio"):
        fake = types.ModuleType(name)
        fake.__getattr__ = lambda attribute, name=name: Recorder(calls, f"{name}.{attribute}")
        monkeypatch.setitem(sys.modules, name, fake)

    def fail(**_):
        raise ConnectionError("no server")

    sys.modules["trackio"].init = fail
    with pytest.raises(UserError, match=r"--tracker trackio: it cannot begin \(no server\)"):
        open_events(tmp_path, ["wandb", "trackio"])
    assert [path for path, *_ in calls] == ["wandb.init", "wandb.finish"]


def test_a_run_that_goes_on_keeps_its_name(tmp_path):
    settings = [
        Wandb.settings(Run(folder, "helmets", "exp", CONFIG, step))
        for folder, step in ((tmp_path / "a", 0), (tmp_path / "a", 3), (tmp_path / "b", 0), (tmp_path / "a", 0))
        if folder.mkdir(exist_ok=True) is None
    ]
    first, resumed, other, again = (each["id"] for each in settings)
    assert first == resumed
    assert len({first, other, again}) == 3


def test_a_tracker_that_fails_is_left_out_and_the_others_go_on(caplog):
    class Failing:
        def scalars(self, step, values):
            raise ConnectionError("no server\nafter 3 tries")

    class Working:
        told = 0

        def scalars(self, step, values):
            self.told += 1

        def close(self):
            self.told += 10

    working = Working()
    events = Events([Failing(), working])
    events.scalars(0, {"a": 1.0})
    events.scalars(1, {"a": 1.0})
    events.close()
    assert working.told == 12
    assert [record.getMessage() for record in caplog.records] == [
        "the tracker Failing failed and is left out from here on (no server after 3 tries)"
    ]


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="TensorBoard is not installed")
def test_tensorboard_reads_what_was_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first in (0, 2):  # the second goes on from epoch 2
        events = open_events(tmp_path, ["auto"], first_step=first)
        for step in range(first, first + 3):
            events.scalars(step, {"train/box_loss": 10.0 * first + step})
        events.images(first, "predictions/cat", PICTURE)
        events.close()
    reader = EventAccumulator(str(tmp_path))
    reader.Reload()
    assert [(e.step, e.value) for e in reader.Scalars("train/box_loss")] == [(0, 0), (1, 1), (2, 22), (3, 23), (4, 24)]
    image = reader.Images("predictions/cat")[0]
    assert (image.step, image.height, image.width) == (0, 4, 6)
