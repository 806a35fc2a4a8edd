import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models import Model, layers
from models.akconv import AKConv
from models.config import load_model_config
from models.parser import MODULE_NAMES, activation, parse_rows
from utils.errors import UserError

BASE = {"nc": 2, "depth_multiple": 0.33, "width_multiple": 0.25, "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]]}
TINY = BASE | {
    "backbone": [[-1, 1, "Conv", [32, 3, 2]], [-1, 1, "Conv", [64, 3, 2]]],
    "head": [[-1, 1, "Conv", [64, 3, 2]], [[1, 2], 1, "Detect", ["nc", "anchors"]]],
}


def with_row(row, at=1):
    cfg = copy.deepcopy(TINY)
    cfg["backbone"].insert(at, row)
    cfg["head"][1][0] = [2, 3]
    return cfg


@pytest.mark.parametrize(
    ("module", "args", "cls"),
    [
        ("DWConv", [32, 3, 1], layers.DWConv),
        ("Bottleneck", [32], layers.Bottleneck),
        ("BottleneckCSP", [32, False], layers.BottleneckCSP),
        ("C3", [32, False], layers.C3),
        ("C3TR", [32], layers.C3TR),
        ("C3SPP", [32, [5, 9]], layers.C3SPP),
        ("C3Ghost", [32], layers.C3Ghost),
        ("C3x", [32], layers.C3x),
        ("CrossConv", [32, 3, 1], layers.CrossConv),
        ("GhostConv", [32, 3, 1], layers.GhostConv),
        ("GhostBottleneck", [32, 3, 1], layers.GhostBottleneck),
        ("SPP", [32, [3, 5]], layers.SPP),
        ("SPPF", [32, 5], layers.SPPF),
        ("Focus", [32, 3], layers.Focus),
        ("MixConv2d", [32, [1, 3]], layers.MixConv2d),
        ("DWConvTranspose2d", [32, 2, 2], layers.DWConvTranspose2d),
        ("nn.ConvTranspose2d", [32, 2, 2], nn.ConvTranspose2d),
        ("nn.BatchNorm2d", [], nn.BatchNorm2d),
        ("nn.Upsample", ["None", 2, "nearest"], nn.Upsample),
        ("nn.MaxPool2d", [2, 2], nn.MaxPool2d),
        ("nn.ZeroPad2d", [[0, 2, 0, 2]], nn.ZeroPad2d),
        ("Contract", [2], layers.Contract),
        ("Expand", [2], layers.Expand),
        ("AKConv", [32, 5, 2], AKConv),
        ("LDConv", [32, 3, 1, True], AKConv),
    ],
)
def test_every_module_builds_and_runs(module, args, cls):
    model = Model(with_row([-1, 1, module, args]))
    assert type(model.model[1]) is cls
    assert [level.shape[0] for level in model(torch.rand(2, 3, 128, 192))] == [2, 2]


def test_keyword_arguments_as_the_last_argument():
    layer = Model(with_row([-1, 1, "AKConv", [32, 5, 2, {"shape": "cross", "border": "clamp"}]])).model[1]
    assert (layer.border, layer.shape[0], layer.stride) == ("clamp", (1, 1), 2)
    own = Model(with_row([-1, 1, "AKConv", [32, 2, 2, {"shape": [[0, 0], [1, 3]]}]])).model[1]
    assert own.shape == ((0, 0), (1, 3))


def test_depth_and_width_scaling():
    cfg = BASE | {"depth_multiple": 0.67, "width_multiple": 0.75, "channel_multiple": 4}
    cfg["backbone"] = [[-1, 1, "Conv", [34, 3, 2]], [-1, 9, "C3", [64]], [-1, 3, "Bottleneck", [64]]]
    cfg["head"] = [[[1, 2], 1, "Detect", ["nc", "anchors"]]]
    model = Model(cfg)
    assert model.model[0].conv.out_channels == 28  # ceil(34 * 0.75 / 4) * 4
    assert len(model.model[1].m) == 6
    assert isinstance(model.model[2], nn.Sequential) and len(model.model[2]) == 2


def test_width_equal_to_the_head_outputs_is_not_scaled():
    cfg = copy.deepcopy(TINY)
    cfg["backbone"][0][3][0] = 2 * (2 + 5)
    assert Model(cfg).model[0].conv.out_channels == 14


def test_activation_belongs_to_one_model():
    leaky = Model(TINY | {"activation": "nn.LeakyReLU(0.2)"})
    assert leaky.model[0].act.negative_slope == 0.2
    assert isinstance(Model(TINY).model[0].act, nn.SiLU)


def test_integer_anchors_are_placeholders():
    model = Model(TINY, anchors=4)
    assert model.head.anchors.shape == (2, 4, 2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([-1, 1, "Conf", [32, 3]], "layer 1: unknown module 'Conf'; did you mean 'Conv'"),
        ([-1, 1, "nn.Evil", []], "layer 1: unknown module 'nn.Evil'"),
        ([-1, 1, "os.system", ["true"]], "layer 1: unknown module"),
        ([-1, 0, "Conv", [32]], "layer 1: expected"),
        ([-1, 1, "Conv"], "layer 1: expected"),
        ("Conv", "layer 1: expected"),
        ([7, 1, "Conv", [32]], "layer 1: reads from 7"),
        ([-3, 1, "Conv", [32]], "layer 1: reads from -3"),
        ([["x"], 1, "Conv", [32]], "layer 1: reads from 'x'"),
        ([-1, 1, "Conv", []], r"layer 1 \(Conv\): cannot be built"),
        ([-1, 1, "Conv", [32, "three"]], r"layer 1 \(Conv\): cannot be built"),
        ([-1, 1, "AKConv", [32, 4, 2, {"shape": "a"}]], r"layer 1 \(AKConv\).*5 points, but N is 4"),
        ([-1, 1, "AKConv", [32, 4, 2, {"colour": "red"}]], r"layer 1 \(AKConv\).*colour"),
    ],
)
def test_a_wrong_row_is_named(row, message):
    with pytest.raises(UserError, match=message):
        Model(with_row(row))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nc": "many"}, "nc: expected a number of classes"),
        ({"nc": True}, "nc: expected a number of classes"),
        ({"width_multiple": 0}, "width_multiple"),
        ({"depth_multiple": "deep"}, "depth_multiple"),
        ({"anchors": [[1, 2, 3]]}, "anchors: expected 2 rows"),
        ({"head": [[-1, 1, "Conv", [64]]]}, "the last layer is Conv, expected Detect"),
        ({"backbone": 3}, "backbone: expected a list"),
        ({"activation": "__import__('os').system('true')"}, "activation: expected"),
        ({"activation": "nn.SiLU"}, "activation: expected"),
        ({"activation": "nn.Linear(100000, 100000)"}, "activation: expected.*known: SiLU"),
        ({"depth_multiple": float("inf")}, "depth_multiple"),
        ({"anchors": [[1, 2], [-3, 4]]}, "pixels above 0"),
        ({"activation": "nn.LeakyReLU(x)"}, "activation: expected"),
    ],
)
def test_a_wrong_key_is_named(change, message):
    with pytest.raises(UserError, match=message):
        Model(TINY | change)


def test_layers_that_do_not_fit_together_are_told():
    cfg = with_row([-1, 1, "nn.Conv2d", [3, 3, 1]])
    with pytest.raises(UserError, match=r"layer \d+ \(nn\.Conv2d\): does not fit the layers it reads"):
        Model(cfg)
    with pytest.raises(UserError, match=r"layer \d+ \(Concat\): does not fit the layers it reads"):
        Model(with_row([[-1, 0], 1, "Concat", [7]]))


@pytest.mark.parametrize(
    ("downsample", "message"),
    [
        (
            "[AKConv, 5, {shape: crosss}]",
            r"mine\.yaml: layer \d+ \(AKConv\).*{'shape': 'crosss'}.*unknown initial shape",
        ),
        ("[AKConv, 5, {border: clmp}]", r"mine\.yaml: layer \d+ \(AKConv\).*unknown border rule 'clmp'"),
        ("[AKConf, 5]", r"mine\.yaml: layer \d+: unknown module 'AKConf'; did you mean 'AKConv'"),
    ],
)
def test_the_file_of_a_wrong_layer_is_named(tmp_path, downsample, message):
    file = tmp_path / "mine.yaml"
    file.write_text(f"base: yolov5n.yaml\ndownsample: {downsample}\n")
    with pytest.raises(UserError, match=message):
        Model(str(file))


def test_activation_arguments():
    assert activation("nn.Hardswish()").__class__ is nn.Hardswish
    assert activation("torch.nn.LeakyReLU(negative_slope=0.3)").negative_slope == 0.3


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 999) | st.floats() | st.sampled_from([*MODULE_NAMES, "nc", "x", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)


@settings(max_examples=200)
@given(rows=st.lists(values, max_size=3))
def test_any_rows_parse_or_are_refused_with_a_message(rows):
    cfg = BASE | {"backbone": rows, "head": []}
    try:
        assert len(parse_rows(cfg)) == len(rows)
    except UserError as error:
        assert str(error)


def test_authors_own_rows_load_unchanged():
    cfg = load_model_config("yolov5n.yaml")
    for part in ("backbone", "head"):
        cfg[part] = [
            [f, n, "LDConv", [args[0], 5, 2]] if m == "Conv" and args[1:] == [3, 2] else [f, n, m, args]
            for f, n, m, args in cfg[part]
        ]
    assert sum(p.numel() for p in Model(cfg).parameters()) == 1655097
