"""Old checkpoints: what is read from them, and that nothing in a hostile one ever runs."""

import collections
import pickle
import random
import struct
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from utils.errors import UserError
from utils.legacy import is_legacy, read_legacy

CLASSES = {
    "models.common": ("Conv", "DWConv", "BottleneckCSP", "Concat", "MixConv2d"),
    "models.yolo": ("Model", "DetectionModel", "Detect", "Segment", "SegmentationModel", "ClassificationModel"),
    "models.akconv": ("AKConv",),
    "models.ldconv": ("LDConv",),
    "models.experimental": ("C3", "Mystery"),
    "ultralytics.nn.modules.conv": ("LDConv",),
}
CFG = {
    "nc": 80,
    "depth_multiple": 0.33,
    "width_multiple": 0.25,
    "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]],
    "backbone": [[-1, 1, "Conv", [8, 3, 2]]],
    "head": [[-1, 1, "nn.Upsample", ["None", 2, "nearest"]], [[0, 1], 1, "Detect", ["nc", "anchors"]]],
}
NC, ANCHORS = 3, 2


@pytest.fixture
def old(monkeypatch):
    """Classes that pickle under the names of old YOLOv5 code; that code itself exists nowhere."""
    found = {}
    for module_name, class_names in CLASSES.items():
        parts = module_name.split(".")
        for depth in range(1, len(parts) + 1):
            package = ".".join(parts[:depth])
            if package not in found:
                found[package] = types.ModuleType(package)
                monkeypatch.setitem(sys.modules, package, found[package])
        for name in class_names:
            fake = type(name, (nn.Module,), {"__module__": module_name})
            setattr(found[module_name], name, fake)
    return types.SimpleNamespace(
        yolo=found["models.yolo"],
        common=found["models.common"],
        akconv=found["models.akconv"].AKConv,
        ldconv=found["models.ldconv"].LDConv,
        ultralytics=found["ultralytics.nn.modules.conv"].LDConv,
        experimental=found["models.experimental"],
    )


def make_conv(old, act=None, *, fused=False, kind="Conv", eps=1e-3):
    conv = getattr(old.common, kind)()
    conv.conv = nn.Conv2d(3, 5, 3, bias=fused)
    if not fused:
        conv.bn = nn.BatchNorm2d(5, eps=eps, momentum=0.03)
    conv.act = act if act is not None else nn.SiLU()
    return conv


def make_model(old, *layers, nc=NC, kind="DetectionModel", head="Detect"):
    detect = getattr(old.yolo, head)()
    detect.nc, detect.stride = nc, torch.tensor([8.0, 16.0])
    detect.register_buffer("anchors", torch.arange(8.0).view(2, ANCHORS, 2))
    detect.register_buffer("anchor_grid", torch.zeros(2, 1, ANCHORS, 1, 1, 2))
    detect.grid = [torch.zeros(1, 1, 4, 6, 2)] * 2
    detect.m = nn.ModuleList(nn.Conv2d(5, ANCHORS * (nc + 5), 1) for _ in range(2))
    model = getattr(old.yolo, kind)()
    model.model = nn.Sequential(*(layers or (make_conv(old),)), detect)
    model.yaml, model.stride = dict(CFG), torch.tensor([8.0, 16.0])
    model.names = [f"thing {i}" for i in range(nc)]
    model.hyp = {"lr0": 0.01, "anchor_t": 4.0}
    return model


def save(path: Path, **content) -> Path:
    torch.save(content, path)
    return path


def write_zip(path: Path, data: bytes, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in entries.items():
            archive.writestr(f"archive/data/{name}", content)
    return path


class TestContent:
    def test_weights_and_description(self, old, tmp_path):
        model = make_model(old)
        path = save(
            tmp_path / "a.pt", epoch=7, best_fitness=np.array([0.25]), model=model.half(), ema=None, date="2022"
        )
        found = read_legacy(path)
        expected = {k: v for k, v in model.state_dict().items() if not k.endswith("anchor_grid")}
        assert list(found.state) == list(expected)
        for name, value in expected.items():
            assert torch.equal(found.state[name], value.float() if value.is_floating_point() else value), name
            assert found.state[name].dtype in (torch.float32, torch.int64)
        assert (found.nc, found.names) == (NC, {0: "thing 0", 1: "thing 1", 2: "thing 2"})
        assert found.cfg == {**CFG, "nc": NC}
        assert found.stride.tolist() == [8.0, 16.0] and found.stride.dtype == torch.float32
        assert (found.batchnorm_eps, found.batchnorm_momentum, found.fused) == (1e-3, 0.03, False)
        assert (found.epoch, found.best_fitness, found.date) == (7, 0.25, "2022")
        assert found.hyp == {"lr0": 0.01, "anchor_t": 4.0} and found.opt is None

    def test_ema_is_preferred(self, old, tmp_path):
        model, ema = make_model(old), make_model(old)
        found = read_legacy(save(tmp_path / "a.pt", model=model, ema=ema))
        name = "model.0.conv.weight"
        assert torch.equal(found.state[name], ema.state_dict()[name])
        assert not torch.equal(found.state[name], model.state_dict()[name])

    def test_a_model_saved_bare(self, old, tmp_path):
        torch.save(make_model(old), tmp_path / "a.pt")
        assert read_legacy(tmp_path / "a.pt").nc == NC

    def test_names_as_dictionary(self, old, tmp_path):
        model = make_model(old)
        model.names = {2: "c", 0: "a", 1: "b"}
        assert read_legacy(save(tmp_path / "a.pt", model=model)).names == {0: "a", 1: "b", 2: "c"}

    def test_missing_names_become_numbers(self, old, tmp_path, caplog):
        model = make_model(old)
        model.names = ["a"]
        assert read_legacy(save(tmp_path / "a.pt", model=model)).names == {0: "a", 1: "1", 2: "2"}
        assert "1 class names for 3 classes" in caplog.text

    def test_fused(self, old, tmp_path):
        found = read_legacy(save(tmp_path / "a.pt", model=make_model(old, make_conv(old, fused=True))))
        assert found.fused and "model.0.conv.bias" in found.state

    def test_partly_fused_is_refused(self, old, tmp_path):
        model = make_model(old, make_conv(old, fused=True), make_conv(old))
        with pytest.raises(UserError, match="only some Conv blocks"):
            read_legacy(save(tmp_path / "a.pt", model=model))

    @pytest.mark.parametrize("where", ["akconv", "ldconv", "ultralytics"])
    def test_akconv_keeps_its_initial_shape(self, old, tmp_path, where):
        layer = getattr(old, where)()
        layer.conv = nn.Sequential(nn.Conv2d(3, 4, (5, 1)), nn.BatchNorm2d(4, eps=1e-3, momentum=0.03), nn.SiLU())
        layer.p_conv = nn.Conv2d(3, 10, 3)
        layer.register_buffer("p_n", torch.arange(10.0).view(1, 10, 1, 1))
        found = read_legacy(save(tmp_path / "a.pt", model=make_model(old, layer)))
        assert found.state["model.0.p_n"].flatten().tolist() == list(range(10))
        assert {"model.0.conv.0.weight", "model.0.conv.1.running_var", "model.0.p_conv.bias"} <= found.state.keys()

    def test_options_of_all_plain_kinds(self, old, tmp_path):
        options = {"imgsz": [640, 320], "project": Path("runs") / "train", "lr": np.float64(0.5), "flags": {1, 2}}
        found = read_legacy(save(tmp_path / "a.pt", model=make_model(old), opt=options))
        assert found.opt == {"imgsz": [640, 320], "project": "runs/train", "lr": 0.5, "flags": [1, 2]}

    def test_shared_storage_and_strides(self, old, tmp_path):
        model = make_model(old)
        base = torch.arange(200.0)
        model.model[0].conv.weight = nn.Parameter(base[5:140].view(3, 5, 3, 3).transpose(0, 1))
        model.model[0].conv.register_buffer("extra", base[100:106].view(2, 3).t())
        found = read_legacy(save(tmp_path / "a.pt", model=model)).state
        assert torch.equal(found["model.0.conv.weight"], model.model[0].conv.weight)
        assert found["model.0.conv.extra"].tolist() == [[100, 103], [101, 104], [102, 105]]

    def test_big_endian(self, old, tmp_path):
        path = save(tmp_path / "a.pt", model=make_model(old))
        swapped = tmp_path / "b.pt"
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(swapped, "w") as target:
            for name in source.namelist():
                data = source.read(name)
                if name.endswith("/byteorder"):
                    data = b"big"
                elif "/data/" in name:  # every storage here is of 4-byte floats but the BatchNorm counter
                    width = 4 if len(data) % 8 or len(data) > 8 else 8
                    data = b"".join(data[i : i + width][::-1] for i in range(0, len(data), width))
                target.writestr(name, data)
        weight = "model.0.conv.weight"
        assert torch.equal(read_legacy(path).state[weight], read_legacy(swapped).state[weight])


class TestActivations:
    @pytest.mark.parametrize(
        ("act", "expected"),
        [
            (nn.SiLU(), "nn.SiLU()"),
            (nn.Hardswish(), "nn.Hardswish()"),
            (nn.LeakyReLU(0.1, inplace=True), "nn.LeakyReLU(0.1)"),
            (nn.ReLU(), "nn.ReLU()"),
        ],
    )
    def test_of_the_convs(self, old, tmp_path, act, expected):
        model = make_model(old, make_conv(old, act), make_conv(old, nn.Identity(), kind="DWConv"))
        found = read_legacy(save(tmp_path / "a.pt", model=model))
        assert found.activation == expected and found.csp_activation is None
        assert found.activations["model.1"] == ("Identity", None)

    def test_of_csp_may_differ(self, old, tmp_path):
        csp = make_conv(old, nn.LeakyReLU(0.1), kind="BottleneckCSP")
        found = read_legacy(save(tmp_path / "a.pt", model=make_model(old, make_conv(old, nn.Hardswish()), csp)))
        assert (found.activation, found.csp_activation) == ("nn.Hardswish()", "nn.LeakyReLU(0.1)")
        assert found.activations == {"model.0": ("Hardswish", None), "model.1": ("LeakyReLU", 0.1)}

    def test_mixed_ones_are_refused(self, old, tmp_path):
        model = make_model(old, make_conv(old, nn.LeakyReLU(0.1)), make_conv(old, nn.LeakyReLU(0.2)))
        with pytest.raises(UserError, match=r"mixed \(nn.LeakyReLU\(0.1\) in model.0, nn.LeakyReLU\(0.2\) in model.1"):
            read_legacy(save(tmp_path / "a.pt", model=model))

    def test_unknown_one_is_refused(self, old, tmp_path):
        with pytest.raises(UserError, match=r"model.0.act: activation .*PReLU"):
            read_legacy(save(tmp_path / "a.pt", model=make_model(old, make_conv(old, nn.PReLU()))))

    def test_other_layers_must_have_silu(self, old, tmp_path):
        mix = make_conv(old, nn.LeakyReLU(0.1), kind="MixConv2d")
        with pytest.raises(UserError, match=r"model.1.act in a MixConv2d is nn.LeakyReLU\(0.1\)"):
            read_legacy(save(tmp_path / "a.pt", model=make_model(old, make_conv(old), mix)))

    def test_mixed_batchnorm_settings_are_refused(self, old, tmp_path):
        model = make_model(old, make_conv(old), make_conv(old, eps=1e-5))
        with pytest.raises(UserError, match="BatchNorm layers differ"):
            read_legacy(save(tmp_path / "a.pt", model=model))


class TestNotADetectionModel:
    @pytest.mark.parametrize(
        ("kind", "head", "expected"),
        [
            ("SegmentationModel", "Detect", "a segmentation model"),
            ("DetectionModel", "Segment", "a segmentation model"),
            ("ClassificationModel", "Detect", "a classification model"),
        ],
    )
    def test_other_tasks(self, old, tmp_path, kind, head, expected):
        with pytest.raises(UserError, match=expected):
            read_legacy(save(tmp_path / "a.pt", model=make_model(old, kind=kind, head=head)))

    def test_unknown_layer_is_named(self, old, tmp_path):
        with pytest.raises(UserError, match=r"a\.pt: refers to models\.experimental\.Mystery"):
            read_legacy(save(tmp_path / "a.pt", model=make_model(old, old.experimental.Mystery())))

    def test_the_other_c3_of_old_versions(self, old, tmp_path):
        with pytest.raises(UserError, match=r"models\.experimental\.C3"):
            read_legacy(save(tmp_path / "a.pt", model=make_model(old, old.experimental.C3())))

    def test_first_yaml_dialect(self, old, tmp_path):
        model = make_model(old)
        model.yaml["head"] = [[-1, 1, "nn.Conv2d", ["na * (nc + 5)", 1, 1]], [[], 1, "Detect", ["nc", "anchors"]]]
        with pytest.raises(UserError, match=r"v1\.0"):
            read_legacy(save(tmp_path / "a.pt", model=model))

    def test_classes_that_do_not_fit_the_head(self, old, tmp_path):
        model = make_model(old)
        model.model[-1].nc = 10**12
        with pytest.raises(UserError, match="nc is 1000000000000"):
            read_legacy(save(tmp_path / "a.pt", model=model))

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ({"epoch": 3}, "holds no model .found keys epoch"),
            ({"model": None}, "'model' is a NoneType"),
            ({"model": {"0.weight": torch.ones(2)}}, "'model' is a dict"),
            ([1, 2], "found a list"),
        ],
    )
    def test_without_a_model(self, tmp_path, content, expected):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(UserError, match=expected):
            read_legacy(tmp_path / "a.pt")


class TestDamage:
    def test_missing(self, tmp_path):
        with pytest.raises(UserError, match="no such file"):
            read_legacy(tmp_path / "a.pt")

    def test_directory(self, tmp_path):
        with pytest.raises(UserError, match="is a directory"):
            read_legacy(tmp_path)

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b"", "is empty"),
            (b"<html>not found</html>", "not a checkpoint"),
            (pickle.dumps({"a": 1}, protocol=2), "older than 1.6"),
            (b"PK\x03\x04", "truncated"),
        ],
    )
    def test_no_archive(self, tmp_path, data, expected):
        (tmp_path / "a.pt").write_bytes(data)
        with pytest.raises(UserError, match=expected):
            read_legacy(tmp_path / "a.pt")

    def test_truncated(self, old, tmp_path):
        path = save(tmp_path / "a.pt", model=make_model(old))
        data = path.read_bytes()
        for length in range(1, len(data), len(data) // 23):
            path.write_bytes(data[:length])
            with pytest.raises(UserError, match=r"a\.pt"):
                read_legacy(path)

    def test_a_flipped_bit_in_the_weights(self, old, tmp_path):
        path = save(tmp_path / "a.pt", model=make_model(old))
        weight = read_legacy(path).state["model.0.conv.weight"].numpy().tobytes()
        data = bytearray(path.read_bytes())
        data[data.index(weight) + 17] ^= 1
        path.write_bytes(data)
        with pytest.raises(UserError, match="damaged"):
            read_legacy(path)

    def test_a_zip_that_is_no_checkpoint(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
            archive.writestr("readme.txt", "hello")
        with pytest.raises(UserError, match=r"no data\.pkl"):
            read_legacy(tmp_path / "a.pt")

    def test_torchscript(self, tmp_path):
        write_zip(tmp_path / "a.pt", pickle.dumps({}, protocol=2))
        with zipfile.ZipFile(tmp_path / "a.pt", "a") as archive:
            archive.writestr("archive/constants.pkl", b"")
        with pytest.raises(UserError, match="TorchScript"):
            read_legacy(tmp_path / "a.pt")

    def test_zip_bomb(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
            archive.writestr("archive/data/0", bytes(10_000_000))
        with pytest.raises(UserError, match="times its size"):
            read_legacy(tmp_path / "a.pt")

    def test_any_damage_to_the_pickle_is_told(self, old, tmp_path):
        path = save(tmp_path / "a.pt", model=make_model(old), opt={"a": [1, 2.5, None]}, best_fitness=np.array([0.5]))
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        original = entries["a/data.pkl"]
        choose = random.Random(0)
        refused = 0
        for _ in range(300):
            data = bytearray(original)
            for _ in range(choose.choice((1, 2, 5))):
                at = choose.randrange(len(data))
                match choose.randrange(3):
                    case 0:
                        data[at] = choose.randrange(256)
                    case 1:
                        del data[at : at + choose.randrange(1, 9)]
                    case _:
                        start = choose.randrange(len(data))
                        data[at:at] = data[start : start + choose.randrange(1, 40)]
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in entries.items():
                    archive.writestr(name, bytes(data) if name == "a/data.pkl" else content)
            try:
                read_legacy(path)
            except UserError:
                refused += 1
        assert refused > 200


class Rebuild:
    """Pickles as a tensor that claims any place in a storage."""

    def __init__(self, storage, offset, size, stride):
        self.claim = (storage, offset, size, stride, False, collections.OrderedDict())

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.claim


class TestHostileTensors:
    @pytest.mark.parametrize(
        ("offset", "size", "stride"),
        [
            (0, (7,), (1,)),
            (3, (4,), (1,)),
            (7, (), ()),
            (-1, (2,), (1,)),
            (0, (2,), (-1,)),
            (0, (2, 2), (6, 1)),
            (0, (2,), (2**62,)),
            (0, (2**40, 2**40), (0, 0)),
            (0, (-1,), (1,)),
            (0, (2, 3), (1,)),
            (0, (1,) * 9, (1,) * 9),
            (2**70, (1,), (1,)),
            (0, [2], [1]),
            (0.5, (1,), (1,)),
            (None, (1,), (1,)),
        ],
    )
    def test_outside_of_the_storage(self, old, tmp_path, offset, size, stride):
        model = make_model(old)
        storage = torch.arange(6.0)._typed_storage()
        model.model[0].conv._buffers["evil"] = Rebuild(storage, offset, size, stride)
        with pytest.raises(UserError, match="does not fit in its storage of 6"):
            read_legacy(save(tmp_path / "a.pt", model=model))

    @pytest.mark.parametrize(
        ("offset", "size", "stride", "expected"),
        [
            (2, (2, 2), (2, 1), [[2, 3], [4, 5]]),
            (5, (), (), 5),
            (6, (0,), (1,), []),
            (0, (3, 2), (1, 0), [[0, 0], [1, 1], [2, 2]]),
        ],
    )
    def test_inside_of_the_storage(self, old, tmp_path, offset, size, stride, expected):
        model = make_model(old)
        storage = torch.arange(6.0)._typed_storage()
        model.model[0].conv._buffers["good"] = Rebuild(storage, offset, size, stride)
        state = read_legacy(save(tmp_path / "a.pt", model=model)).state
        assert state["model.0.conv.good"].tolist() == expected

    @pytest.mark.parametrize("kept", [0, 7])
    def test_storage_shorter_than_it_says(self, old, tmp_path, kept):
        path = save(tmp_path / "a.pt", model=make_model(old))
        short = tmp_path / "b.pt"
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(short, "w") as target:
            for name in source.namelist():
                target.writestr(name, source.read(name)[: kept if "/data/" in name else None])
        with pytest.raises(UserError, match=f"holds {kept} bytes, expected"):
            read_legacy(short)

    def test_storage_left_out(self, old, tmp_path):
        path = save(tmp_path / "a.pt", model=make_model(old))
        with zipfile.ZipFile(path) as source:
            data = source.read("a/data.pkl")
        with pytest.raises(UserError, match="is missing"):
            read_legacy(write_zip(tmp_path / "b.pt", data))

    def test_something_else_in_the_place_of_a_tensor(self, old, tmp_path):
        model = make_model(old)
        model.model[0].conv._buffers["evil"] = {"not": "a tensor"}
        with pytest.raises(UserError, match="expected a tensor, found a dict"):
            read_legacy(save(tmp_path / "a.pt", model=model))


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def module(state: bytes) -> bytes:
    """A pickled layer with this state."""
    return b"cmodels.common\nConv\n)\x81" + state + b"b"


class TestHostilePickles:
    """Each tries to create a marker file; the reader must refuse it and the file must not appear."""

    def attacks(self, marker: Path) -> dict[str, tuple[bytes, str]]:
        command = text(f"touch {marker}")
        run = b"cposix\nsystem\n" + command + b"\x85R"
        write = text(f"open({str(marker)!r}, 'w')")
        evaluate = b"cbuiltins\neval\n" + write + b"\x85R"
        state = b"}" + text("__setstate__")
        short = str(marker).encode()
        return {
            "reduce": (run, r"posix\.system"),
            "eval": (evaluate, r"builtins\.eval"),
            "eval under its old name": (b"c__builtin__\neval\n" + write + b"\x85R", r"__builtin__\.eval"),
            "getattr": (b"c__builtin__\ngetattr\n", r"__builtin__\.getattr"),
            "import": (b"cimportlib\nimport_module\n" + text("os") + b"\x85R", r"importlib\.import_module"),
            "subprocess": (b"csubprocess\nPopen\n" + command + b"\x85R", r"subprocess\.Popen"),
            "torch load": (b"ctorch\nload\n" + command + b"\x85R", r"torch\.load"),
            "through a torch module": (b"ctorch.nn.modules.module\nos.system\n" + command + b"\x85R", "os.system"),
            "through a layer": (b"cmodels.common\nConv.__init__.__globals__\n", "__globals__"),
            "a module of no known layer": (b"cmodels.evil\nEvil\n)\x81", r"models\.evil\.Evil"),
            "nested in a layer": (module(b"}" + text("x") + evaluate + b"s"), r"builtins\.eval"),
            "as the setstate of a layer": (module(state + b"cposix\nsystem\ns"), r"posix\.system"),
            "as the new method": (b"cposix\nsystem\n" + command + b"\x85\x81", r"posix\.system"),
            "new method of a text": (command + command + b"\x85\x81", "an instance of str"),
            "call of a layer's record": (module(b"}") + command + b"\x85R", "a call of Instance"),
            "state for a class": (b"cmodels.common\nConv\n" + state + command + b"sb", "a state for a Global"),
            "state for a list": (b"]" + state + command + b"sb", "a state for a list"),
            "stack global": (text("posix") + text("system") + b"\x93" + command + b"\x85R", r"posix\.system"),
            "inst": (b"(" + command + b"iposix\nsystem\n", r"posix\.system"),
            "obj": (b"(cposix\nsystem\n" + command + b"o", r"posix\.system"),
            "obj of a layer": (b"(cmodels.common\nConv\n" + command + b"o", "opcode OBJ"),
            "extension registry": (b"\x82\x01" + command + b"\x85R", "opcode EXT1"),
            "extension registry, wide": (b"\x84\x01\x00\x00\x00", "opcode EXT4"),
            "new object with keywords": (b"cmodels.common\nConv\n)}\x92", "opcode NEWOBJ_EX"),
            "text persistent id": (b"P" + short + b"\n", "opcode PERSID"),
            "numpy objects": (b"cnumpy\nload\n" + text(str(marker)) + b"\x85R", r"numpy\.load"),
            "codec": (b"c_codecs\ndecode\n" + command + b"\x85R", r"_codecs\.decode"),
        }

    names = tuple(attacks(None, Path("x")))

    @pytest.mark.parametrize("name", names)
    @pytest.mark.parametrize("place", ["whole", "value", "hidden"])
    def test_is_refused_and_never_run(self, tmp_path, name, place):
        marker = tmp_path / "executed"
        attack, expected = self.attacks(marker)[name]
        around = {
            "whole": (b"", b"."),
            "value": (b"}" + text("model"), b"s."),
            "hidden": (b"}(" + text("model") + b"cmodels.yolo\nModel\n)\x81}" + text("yaml"), b"sbu."),
        }[place]
        path = write_zip(tmp_path / "a.pt", b"\x80\x02" + around[0] + attack + around[1])
        with pytest.raises(UserError, match=expected) as refusal:
            read_legacy(path)
        assert str(path) in str(refusal.value)
        assert not marker.exists()

    def test_the_attack_itself_is_real(self, tmp_path):
        marker = tmp_path / "executed"
        for name in ("reduce", "eval", "inst", "obj", "stack global"):
            pickle.loads(b"\x80\x02" + self.attacks(marker)[name][0] + b".")
            assert marker.exists(), name
            marker.unlink()

    @pytest.mark.parametrize(
        "data",
        [
            b"}" + b")" + b"\x85" * 200_000 + b"Ns",  # hashing the key would overflow the C stack
            b"})" + b"q\x00h\x00\x86" * 60 + b"Ns",  # 2**60 tuples, seen from above
            b"}" + text("model") + b"]q\x00" + b"h\x00a" + b"s",
            b"Nr\xff\xff\xff\x7f",
            b"X\xff\xff\xff\x7fabc",
            b"\x8a\xff",
            b"u",
            b"0000",
            b"R",
            b"h\x07",
        ],
        ids=lambda data: repr(data[:12]),
    )
    def test_exhausting_or_broken(self, tmp_path, data):
        with pytest.raises(UserError):
            read_legacy(write_zip(tmp_path / "a.pt", b"\x80\x02" + data + b"."))

    @pytest.mark.parametrize("endless", [b"]" * 50_000 + b"a" * 49_999, b")" + b"\x85" * 50_000], ids=["list", "tuple"])
    @pytest.mark.parametrize("where", ["nc", "names", "stride", "yaml", "eps", "slope", "best_fitness"])
    def test_endless_nesting(self, old, tmp_path, where, endless):
        act = nn.LeakyReLU(0.1)
        model = make_model(old, make_conv(old, act))
        owner, key = {
            "nc": (model.model[-1], "nc"),
            "eps": (model.model[0].bn, "eps"),
            "slope": (act, "negative_slope"),
        }.get(where, (model, where))
        if where != "best_fitness":
            setattr(owner, key, "PLACEHOLDER")
        path = save(tmp_path / "a.pt", model=model, best_fitness="PLACEHOLDER" if where == "best_fitness" else 0.5)
        with zipfile.ZipFile(path) as source:
            entries = {name: source.read(name) for name in source.namelist()}
        assert text("PLACEHOLDER") in entries["a/data.pkl"]
        entries["a/data.pkl"] = entries["a/data.pkl"].replace(text("PLACEHOLDER"), endless)
        with zipfile.ZipFile(path, "w") as target:
            for name, content in entries.items():
                target.writestr(name, content)
        with pytest.raises(UserError):
            read_legacy(path)

    def test_a_model_that_contains_itself(self, old, tmp_path):
        model = make_model(old)
        model.model._modules["again"] = model
        with pytest.raises(UserError, match="deeply nested"):
            read_legacy(save(tmp_path / "a.pt", model=model))

    def test_a_description_that_contains_itself(self, old, tmp_path):
        model = make_model(old)
        model.yaml["head"].append(model.yaml["head"])
        try:
            with pytest.raises(UserError, match="deeply nested"):
                read_legacy(save(tmp_path / "a.pt", model=model))
        finally:
            model.yaml["head"].pop()


class TestIsLegacy:
    def test_modules(self, old, tmp_path):
        assert is_legacy(save(tmp_path / "a.pt", model=make_model(old)))

    def test_hostile_one(self, tmp_path):
        assert is_legacy(write_zip(tmp_path / "a.pt", b"\x80\x02cposix\nsystem\n."))
        assert is_legacy(write_zip(tmp_path / "b.pt", b"\x80\x02" + text("posix") + text("system") + b"\x93."))

    def test_plain_tensors(self, tmp_path):
        content = {"a": torch.ones(2, 3).half(), "b": nn.Parameter(torch.ones(4)), "c": nn.Linear(2, 3).state_dict()}
        assert not is_legacy(save(tmp_path / "a.pt", **content))

    def test_damaged(self, tmp_path):
        with pytest.raises(UserError, match="damaged"):
            is_legacy(write_zip(tmp_path / "a.pt", b"\x80\x02}"))


class TestRealFiles:
    @pytest.mark.parametrize(
        ("name", "nc", "classes"),
        [("yolov5n_coco.pt", 80, ["person", "bicycle"]), ("yolov5n_helmet.pt", 2, ["helmet", "vest"])],
    )
    def test_yolov5n(self, shared, name, nc, classes):
        path = shared / "weights" / name
        if not path.is_file():
            pytest.skip(f"no {name} in the folder 'shared' beside the repository")
        assert is_legacy(path)
        found = read_legacy(path)
        assert len(found.state) == 349
        assert (found.nc, len(found.names), found.cfg["nc"]) == (nc, nc, nc)
        assert [found.names[0], found.names[1]] == classes
        assert (found.activation, found.csp_activation, found.fused) == ("nn.SiLU()", None, False)
        assert len(found.activations) == 57
        assert found.state["model.24.m.0.weight"].shape == (3 * (nc + 5), 64, 1, 1)
        assert found.stride.tolist() == [8.0, 16.0, 32.0]
        anchors = found.state["model.24.anchors"] * found.stride.view(-1, 1, 1)
        assert anchors[0, 0].tolist() == [10.0, 13.0] and anchors[2, 2].tolist() == [373.0, 326.0]
        assert all(torch.isfinite(tensor).all() for tensor in found.state.values())
