"""Our own checkpoints: plain, complete, written whole or not at all; and what is taken from other weights."""

import errno
import os
import pickle
import random
import signal
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import utils.checkpoint
from utils.checkpoint import (
    FORMAT,
    VERSION,
    Checkpoint,
    open_checkpoint,
    read_checkpoint,
    save_checkpoint,
    strip_training,
    transfer,
)
from utils.errors import UserError
from utils.legacy import LegacyCheckpoint

ROOT = Path(__file__).resolve().parents[2]


def make(**changes) -> Checkpoint:
    content = {
        "cfg": {
            **{"nc": 2, "depth_multiple": 1.0, "width_multiple": 0.5, "anchors": [[1.5, 2]], "activation": None},
            **{"backbone": [[-1, 1, "Conv", [8, 3, 2]]], "head": []},
        },
        "names": {0: "cat", 1: "žirafa 🦒"},
        "stride": [8.0, 16.0],
        "state": {"model.0.weight": torch.rand(3, 5, 2), "model.0.count": torch.tensor(7)},
        "training": {"epoch": 3, "optimizer": {"state": {0: {"step": torch.tensor(5.0)}}}, "done": False},
    }
    return Checkpoint(**{**content, **changes})


def same(left, right) -> bool:
    """Equal in value and in type, tensors bit by bit."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right or (left != left and right != right)


def assert_same(left: Checkpoint, right: Checkpoint) -> None:
    assert same(vars(left), vars(right)), f"{left}\n{right}"


class TestRoundTrip:
    def test_everything(self, tmp_path):
        checkpoint = make()
        save_checkpoint(tmp_path / "last.pt", checkpoint)
        assert_same(read_checkpoint(str(tmp_path / "last.pt")), checkpoint)
        assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]

    def test_is_plain_for_torch(self, tmp_path):
        save_checkpoint(tmp_path / "last.pt", make())
        content = torch.load(tmp_path / "last.pt", weights_only=True)
        assert (content["format"], content["version"]) == (FORMAT, VERSION) == ("yolov5-akconv", 1)
        assert set(content) - {"format", "version"} == set(vars(make()))

    def test_says_who_wrote_it(self):
        checkpoint = make()
        assert checkpoint.versions["torch"] == str(torch.__version__)
        assert {"python", "numpy"} <= checkpoint.versions.keys()
        assert checkpoint.date[:2] == "20" and "T" in checkpoint.date

    def test_what_is_converted(self, tmp_path):
        layer = nn.Linear(2, 3)
        training = {
            "float": np.float64(0.5),
            "int": np.int32(3),
            "bool": np.bool_(True),
            "path": Path("runs") / "train",
            "ordered": OrderedDict(b=1, a=(1, [2.5, None])),
            "parameter": layer.weight,
            np.int64(4): "numpy key",
            "nan": float("nan"),
        }
        save_checkpoint(tmp_path / "a.pt", make(training=training))
        found = read_checkpoint(tmp_path / "a.pt").training
        expected = {
            "float": 0.5,
            "int": 3,
            "bool": True,
            "path": str(Path("runs/train")),
            "ordered": {"b": 1, "a": (1, [2.5, None])},
            "parameter": layer.weight.detach(),
            4: "numpy key",
            "nan": float("nan"),
        }
        assert same(found, expected)

    def test_optimizer_and_random_state(self, tmp_path):
        layer = nn.Conv2d(2, 3, 1)
        optimizer = torch.optim.AdamW(layer.parameters(), amsgrad=True)
        layer(torch.rand(1, 2, 3, 4)).sum().backward()
        optimizer.step()
        training = {
            "optimizer": optimizer.state_dict(),
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
        }
        save_checkpoint(tmp_path / "a.pt", make(training=training))
        found = read_checkpoint(tmp_path / "a.pt").training
        assert same(found["python"], training["python"]) and torch.equal(found["torch"], training["torch"])
        assert same(found["optimizer"], training["optimizer"])

    def test_a_view_does_not_drag_its_storage_along(self, tmp_path):
        big = torch.rand(1000, 1000)
        save_checkpoint(tmp_path / "a.pt", make(state={"w": big[5:7, 3]}))
        assert (tmp_path / "a.pt").stat().st_size < 10_000
        assert torch.equal(read_checkpoint(tmp_path / "a.pt").state["w"], big[5:7, 3])

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text() | st.integers(), inner),
            max_leaves=12,
        )
    )
    def test_any_plain_value(self, tmp_path, value):
        save_checkpoint(tmp_path / "a.pt", make(training={"value": value}))
        assert same(read_checkpoint(tmp_path / "a.pt").training["value"], value)


class TestRefusedToSave:
    @pytest.mark.parametrize(
        ("value", "where"),
        [
            ({"opt": {"f": print}}, r"training\['opt'\]\['f'\]: builtin_function"),
            ({"m": [1, nn.Linear(1, 1)]}, r"training\['m'\]\[1\]: Linear"),
            ({"a": np.zeros(2)}, r"training\['a'\]: ndarray"),
            ({"s": {1, 2}}, r"training\['s'\]: set"),
            ({"b": b"x"}, r"training\['b'\]: bytes"),
            ({"d": {(1, 2): 3}}, r"training\['d'\]: key \(1, 2\)"),
            ({None: 3}, "training: key None"),
        ],
    )
    def test_names_the_key_and_leaves_the_old_file(self, tmp_path, value, where):
        path = tmp_path / "a.pt"
        save_checkpoint(path, make())
        before = path.read_bytes()
        with pytest.raises(TypeError, match=where):
            save_checkpoint(path, make(training=value))
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


class TestAtomic:
    def test_an_error_while_writing_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "a.pt"
        save_checkpoint(path, make())
        before = path.read_bytes()

        def torn(content, file):
            file.write(b"half of it")
            raise KeyboardInterrupt

        monkeypatch.setattr(utils.checkpoint.torch, "save", torn)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(path, make())
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    def test_killed_while_writing_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "a.pt"
        checkpoint = make()
        save_checkpoint(path, checkpoint)
        script = (
            "import os, signal, sys, torch; from pathlib import Path; import utils.checkpoint as c\n"
            "def torn(content, file):\n"
            "    file.write(b'half of it'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
            "old = c.read_checkpoint(sys.argv[1]); torch.save = torn; c.save_checkpoint(Path(sys.argv[1]), old)\n"
        )
        ended = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, env={**os.environ}, check=False)
        assert ended.returncode == -signal.SIGKILL
        assert_same(read_checkpoint(path), checkpoint)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
    def test_full_disk_is_an_os_error(self, tmp_path, monkeypatch):
        class Full:
            def __enter__(self):
                self.file = Path("/dev/full").open("wb", buffering=0)
                return self.file

            def __exit__(self, *_):
                self.file.close()

        monkeypatch.setattr(utils.checkpoint, "atomic_write", lambda _: Full())
        with pytest.raises(OSError, match="space") as failure:
            save_checkpoint(tmp_path / "a.pt", make())
        assert failure.value.errno == errno.ENOSPC


class TestStrip:
    def test_halves_and_drops_the_training_state(self, tmp_path):
        path = tmp_path / "a.pt"
        checkpoint = make(state={"w": torch.rand(300, 50), "n": torch.tensor(3)}, training={"w": torch.rand(300, 50)})
        save_checkpoint(path, checkpoint)
        full = path.stat().st_size
        strip_training(path)
        assert full > 120_000 and path.stat().st_size < 35_000
        found = read_checkpoint(path)
        assert found.training is None
        assert found.state["w"].dtype == torch.float32 and found.state["n"].dtype == torch.int64
        assert torch.equal(found.state["w"], checkpoint.state["w"].half().float())
        assert (found.date, found.names, found.cfg) == (checkpoint.date, checkpoint.names, checkpoint.cfg)

    def test_twice_is_once(self, tmp_path):
        path = tmp_path / "a.pt"
        save_checkpoint(path, make())
        strip_training(path)
        once = read_checkpoint(path)
        strip_training(path)
        assert_same(read_checkpoint(path), once)

    def test_large_numbers_stay_finite(self, tmp_path):
        path = tmp_path / "a.pt"
        state = {"var": torch.tensor([1.0, 1e5]), "small": torch.tensor([0.5, 1.0])}
        save_checkpoint(path, make(state=state))
        strip_training(path)
        assert same(read_checkpoint(path).state, state)
        assert torch.load(path, weights_only=True)["state"]["small"].dtype == torch.float16


class TestRefusedToRead:
    def test_missing(self, tmp_path):
        for read in (read_checkpoint, open_checkpoint):
            with pytest.raises(UserError, match=r"best\.pt: no such file; give the path of a \.pt file"):
                read(tmp_path / "best.pt")

    @pytest.mark.parametrize(("data", "expected"), [(b"", "is empty"), (b"hello world", "not a checkpoint")])
    def test_no_archive(self, tmp_path, data, expected):
        (tmp_path / "a.pt").write_bytes(data)
        with pytest.raises(UserError, match=expected):
            open_checkpoint(tmp_path / "a.pt")

    def test_truncated(self, tmp_path):
        path = tmp_path / "a.pt"
        save_checkpoint(path, make())
        data = path.read_bytes()
        for length in range(1, len(data), len(data) // 17):
            path.write_bytes(data[:length])
            with pytest.raises(UserError, match=r"a\.pt"):
                open_checkpoint(path)

    @pytest.mark.parametrize(
        "content", [{"model.0.weight": torch.ones(2)}, {"state": {}, "epoch": 3}, {}, [1], torch.ones(3), None]
    )
    def test_other_content(self, tmp_path, content):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(UserError, match="not a checkpoint of this program nor of YOLOv5"):
            open_checkpoint(tmp_path / "a.pt")

    def test_bare_state_dict_of_a_module(self, tmp_path):
        torch.save(nn.Conv2d(2, 3, 1).state_dict(), tmp_path / "a.pt")
        with pytest.raises(UserError, match="found keys weight, bias"):
            open_checkpoint(tmp_path / "a.pt")

    @pytest.mark.parametrize("version", [VERSION + 1, 0, "1", None, True])
    def test_other_version(self, tmp_path, version):
        torch.save({"format": FORMAT, "version": version}, tmp_path / "a.pt")
        with pytest.raises(UserError, match="checkpoint format"):
            read_checkpoint(tmp_path / "a.pt")

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("cfg", None),
            ("names", ["a"]),
            ("names", {"0": "a"}),
            ("cfg", {"nc": 2}),
            ("stride", [None]),
            ("stride", []),
            ("stride", [8.0, 0]),
            ("stride", [float("inf")]),
            ("stride", [float("nan")]),
            ("state", {"w": 3}),
            ("state", None),
            ("training", [1]),
            ("versions", {"torch": 2}),
            ("date", 2024),
        ],
    )
    def test_wrong_types(self, tmp_path, key, value):
        content = {"format": FORMAT, "version": VERSION, **vars(make()), key: value}
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(UserError, match=f"pt: {key} missing or of the wrong type"):
            read_checkpoint(tmp_path / "a.pt")

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_finite(self, tmp_path, value):
        save_checkpoint(tmp_path / "a.pt", make(state={"a": torch.ones(2), "b.weight": torch.tensor([1.0, value])}))
        with pytest.raises(UserError, match=r"a\.pt: its weights are not finite \(b\.weight\)"):
            read_checkpoint(tmp_path / "a.pt")

    def test_a_tensor_made_of_something_else(self, tmp_path):
        class Changed:
            def __reduce__(self):
                return torch._utils._rebuild_tensor_v2, (OrderedDict(), 0, (2,), (1,), False, OrderedDict())

        content = {"format": FORMAT, "version": VERSION, **vars(make()), "state": {"w": Changed()}}
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(UserError, match=r"a\.pt: is damaged"):
            read_checkpoint(tmp_path / "a.pt")

    def test_missing_storage(self, tmp_path):
        save_checkpoint(tmp_path / "a.pt", make())
        with zipfile.ZipFile(tmp_path / "a.pt") as source, zipfile.ZipFile(tmp_path / "b.pt", "w") as target:
            for name in source.namelist():
                if not name.endswith("/data/0"):
                    target.writestr(name, source.read(name))
        with pytest.raises(UserError, match=r"b\.pt: is damaged"):
            read_checkpoint(tmp_path / "b.pt")

    def test_pickled_objects(self, tmp_path):
        marker = tmp_path / "executed"
        attack = f"cposix\nsystem\n(Vtouch {marker}\ntR.".encode()
        with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
            archive.writestr("archive/data.pkl", attack)
        with pytest.raises(UserError, match="holds pickled Python objects"):
            read_checkpoint(tmp_path / "a.pt")
        with pytest.raises(UserError, match=r"posix\.system"):
            open_checkpoint(tmp_path / "a.pt")
        assert not marker.exists()
        pickle.loads(attack)
        assert marker.exists()


class TestOpen:
    def test_own(self, tmp_path):
        checkpoint = make()
        save_checkpoint(tmp_path / "any name", checkpoint)
        found = open_checkpoint(tmp_path / "any name")
        assert isinstance(found, Checkpoint)
        assert_same(found, checkpoint)

    def test_old(self, shared):
        path = shared / "weights" / "yolov5n_helmet.pt"
        if not path.is_file():
            pytest.skip("no yolov5n_helmet.pt in the folder 'shared' beside the repository")
        found = open_checkpoint(path)
        assert isinstance(found, LegacyCheckpoint) and found.nc == 2
        with pytest.raises(UserError, match="training cannot be resumed from it"):
            read_checkpoint(path)


class TestTransfer:
    model = {  # noqa: RUF012
        "model.0.conv.weight": torch.zeros(4, 3, 3, 3),
        "model.1.p_conv.weight": torch.zeros(10, 4, 3, 3),
        "model.1.p_conv.bias": torch.zeros(10),
        "model.24.m.0.weight": torch.zeros(21, 4, 1, 1),
        "model.24.anchors": torch.zeros(3, 3, 2),
    }
    source = {  # noqa: RUF012
        "model.0.conv.weight": torch.ones(4, 3, 3, 3),
        "model.1.conv.weight": torch.ones(4, 4, 3, 3),
        "model.24.m.0.weight": torch.ones(255, 4, 1, 1),
        "model.24.anchors": torch.ones(3, 3, 2),
    }

    def test_by_name_and_shape(self):
        found = transfer(self.model, self.source)
        assert list(found.taken) == ["model.0.conv.weight", "model.24.anchors"] and found.count == 2
        assert found.taken["model.0.conv.weight"] is self.source["model.0.conv.weight"]
        assert found.missing == ["model.1.p_conv.weight", "model.1.p_conv.bias"]
        assert found.mismatched == [("model.24.m.0.weight", (255, 4, 1, 1), (21, 4, 1, 1))]
        assert found.unused == ["model.1.conv.weight"]
        assert found.excluded == []

    def test_excluded(self):
        found = transfer(self.model, self.source, exclude=("anchor",))
        assert list(found.taken) == ["model.0.conv.weight"]
        assert found.excluded == ["model.24.anchors"]

    def test_summary(self):
        assert transfer(self.model, self.source, exclude=("anchor",)).summary().splitlines() == [
            "took 1 of 5 tensors",
            "left for another shape: model.24.* (1) (as model.24.m.0.weight: (255, 4, 1, 1) in the file, "
            "(21, 4, 1, 1) in the model)",
            "not in the file: model.1.* (2)",
            "left as asked: model.24.* (1)",
            "in the file only: model.1.* (1)",
        ]

    def test_all_and_nothing(self):
        assert transfer(self.model, self.model).summary() == "took 5 of 5 tensors"
        nothing = transfer(self.model, {})
        assert nothing.count == 0 and len(nothing.missing) == 5
        assert transfer({}, {}).summary() == "took 0 of 0 tensors"
