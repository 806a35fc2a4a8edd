import json
import subprocess
import sys

import pytest
import torch

from models import Model
from models.akconv import AKConv
from models.summary import cost, layer_table
from tests.conftest import ROOT
from utils.errors import UserError

# The published tables: model, classes, GFLOPs and parameters fused by the published rule, parameters as trained.
COCO = [
    ("yolov5n", 80, 4.468, 1867405, 1872157),
    ("yolov5n-ak3", 80, 3.795, 1507441, 1511521),
    ("yolov5n-ak5", 80, 4.123, 1651017, 1655097),
    ("yolov5n-ak9", 80, 4.780, 1938169, 1942249),
    ("yolov5n-ak13", 80, 5.437, 2225321, 2229401),
    ("yolov5s", 80, 16.434, 7225885, 7235389),
    ("yolov5s-ak4", 80, 14.105, 6009485, 6017645),
    ("yolov5s-ak6", 80, 15.286, 6552613, 6560773),
    ("yolov5s-ak7", 80, 15.877, 6824177, 6832337),
]
VISDRONE = [
    ("yolov5n", 10, 4.167, 1772695, None),
    ("yolov5n-ak3", 10, 3.494, 1412731, None),
    ("yolov5n-ak5", 10, 3.822, 1556307, None),
    ("yolov5n-ak6", 10, 3.986, 1628095, None),
    ("yolov5n-ak7", 10, 4.151, 1699883, None),
    ("yolov5n-ak9", 10, 4.479, 1843459, None),
    ("yolov5n-ak11", 10, 4.808, 1987035, None),
    ("yolov5n-ak14", 10, 5.300, 2202399, None),
]
VOC = [
    ("yolov5n", 20, 4.210, 1786225, None),
    ("yolov5n-ak4", 20, 3.701, 1498049, None),
    ("yolov5n-ak9", 20, 4.522, 1856989, None),
]
# The model zoo: GFLOPs as trained and fused.
ZOO = [
    ("yolov5m", 80, 48.87245, 21172173, 21190557),
    ("yolov5l", 80, 108.99374, 46533693, 46563709),
    ("yolov5n6", 80, 4.55905, 3239884, 3246940),
    ("yolov5s6", 80, 16.79729, 12612508, 12626620),
    ("yolov5m6", 80, 49.91201, 35704908, 35731932),
]
LARGE = [
    ("yolov5x", 80, 205.44819, 86705005, 86749405),
    ("yolov5l6", 80, 111.23507, 76726332, 76770172),
    ("yolov5x6", 80, 209.56467, 140730220, 140794780),
]


@pytest.mark.parametrize(
    ("name", "nc", "gflops", "fused", "unfused"),
    [*COCO, *VISDRONE, *VOC, *ZOO, *(pytest.param(*row, marks=pytest.mark.slow) for row in LARGE)],
)
def test_published_sizes(name, nc, gflops, fused, unfused):
    model = Model(f"{name}.yaml", nc=nc)
    counted = cost(model, fused=True)
    assert counted.parameters == fused
    assert abs(counted.gflops - gflops) < 0.001
    if unfused is not None:
        assert cost(model).parameters == unfused


def test_gflops_as_trained_and_leaf_layers():
    counted = cost(Model("yolov5n.yaml"))
    assert abs(counted.gflops - 4.56274) < 1e-5
    assert counted.layers == 125
    assert cost(Model("yolov5n.yaml"), fused=True).layers == 68


def test_cost_of_attention_and_transposed_convolution():
    cfg = dict(Model("yolov5s.yaml").cfg)
    cfg["backbone"] = [[*row[:2], "C3TR", row[3]] if i == 8 else row for i, row in enumerate(cfg["backbone"])]
    model = Model(cfg, nc=80)
    assert abs(cost(model).gflops - 16.78884) < 1e-4
    assert cost(model).parameters == 7235645


def test_state_dict_of_a_published_akconv_model_loads_strictly():
    # Names and shapes as the published code has them, written down here and not taken from our layers.
    model = Model("yolov5n-ak5.yaml", nc=80)
    state = model.state_dict()
    published = {}
    for i, c1, c2 in ((1, 16, 32), (3, 32, 64), (5, 64, 128), (7, 128, 256), (18, 64, 64), (21, 128, 128)):
        assert isinstance(model.model[i], AKConv)
        published |= {
            f"model.{i}.conv.0.weight": (c2, c1, 5, 1),
            **{f"model.{i}.conv.1.{k}": (c2,) for k in ("weight", "bias", "running_mean", "running_var")},
            f"model.{i}.conv.1.num_batches_tracked": (),
            f"model.{i}.p_conv.weight": (10, c1, 3, 3),
            f"model.{i}.p_conv.bias": (10,),
        }
    assert {
        k: tuple(v.shape) for k, v in state.items() if k.split(".")[1] in ("1", "3", "5", "7", "18", "21")
    } == published
    later = {f"model.{i}.p_n": torch.tensor([0, 0, 1, 1, 2, 0, 1, 0, 1, 0]).view(1, 10, 1, 1) for i in (1, 3)}
    missing, unexpected = model.load_state_dict(state | later, strict=True)
    assert not missing and not unexpected


def test_forward_decodes_and_fuses_to_the_same_boxes():
    model = Model("yolov5n-ak3.yaml", names={0: "a", 1: "b"})
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    model.eval()
    images = torch.rand(2, 3, 64, 96)
    raw = model(images)
    assert [tuple(level.shape) for level in raw] == [(2, 3, 8, 12, 7), (2, 3, 4, 6, 7), (2, 3, 2, 3, 7)]
    with torch.inference_mode():
        decoded = model.predict(images)
        assert decoded.shape == (2, 3 * (96 + 24 + 6), 7)
        fused = model.fuse().predict(images)
        again = model.fuse().predict(images)
    torch.testing.assert_close(fused, decoded, rtol=1e-4, atol=1e-3)
    assert torch.equal(fused, again)
    assert not [name for name in model.state_dict() if ".bn." in name or "conv.1" in name]


def test_building_leaves_batchnorm_untouched_and_sets_its_constants():
    norms = [m for m in Model("yolov5n.yaml").modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert all((m.eps, m.momentum, int(m.num_batches_tracked)) == (1e-3, 0.03, 0) for m in norms)


def test_anchor_order_follows_strides():
    backwards = [[116, 90, 156, 198, 373, 326], [30, 61, 62, 45, 59, 119], [10, 13, 16, 30, 33, 23]]
    head = Model("yolov5n.yaml", anchors=backwards).head
    assert (head.anchors[0, 0] * 8).tolist() == [10, 13]
    assert head.stride.tolist() == [8, 16, 32]


def test_head_bias_prior():
    torch.manual_seed(0)
    bias = Model("yolov5n.yaml", nc=4).head.m[0].bias.detach().view(3, 9)
    assert bias[:, 4].mean().item() == pytest.approx(-6.69, abs=0.15)
    assert bias[:, 5:].mean().item() == pytest.approx(-1.61, abs=0.15)


def test_compiles_and_exports_without_breaks():
    model = Model("yolov5n-ak5.yaml", nc=2).eval()
    images = torch.rand(1, 3, 64, 96)
    program = torch.export.export(model, (images,))
    for actual, expected in zip(program.module()(images), model(images), strict=True):
        torch.testing.assert_close(actual, expected)


def test_command_prints_json_and_a_table():
    command = [sys.executable, "-m", "models.yolo", "--cfg", "yolov5n-ak5.yaml", "--nc", "80"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "1655097 parameters, 4.20 GFLOPs" in text and "1651017 parameters, 4.12 GFLOPs" in text
    counted = json.loads(subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True).stdout)
    assert counted["fused"]["parameters"] == 1651017
    assert counted["stride"] == [8, 16, 32]


def test_command_names_an_unknown_model():
    command = [sys.executable, "-m", "models.yolo", "--cfg", "yolov5q.yaml"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: yolov5q.yaml: no such file; did you mean yolov5")
    assert "Traceback" not in result.stderr


def test_layer_table_has_a_row_for_every_layer():
    model = Model("yolov5n-ak5.yaml")
    lines = layer_table(model).splitlines()
    assert len(lines) == 26
    assert "AKConv" in lines[2]


def test_names_must_cover_the_classes():
    with pytest.raises(UserError, match="one name for each class 0 to 2"):
        Model("yolov5n.yaml", nc=3, names={0: "a", 1: "b"})


def test_a_fused_model_activates_in_place_and_leaves_its_input_alone():
    model, images = Model("yolov5n-ak5.yaml", nc=3).eval(), torch.rand(1, 3, 64, 96)
    given = images.clone()
    with torch.no_grad():
        before = model(images)
        after = model.fuse()(images)
    assert {m.inplace for m in model.modules() if isinstance(m, torch.nn.SiLU)} == {True}
    assert torch.equal(images, given)
    for level, expected in zip(after, before, strict=True):
        torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-4)
