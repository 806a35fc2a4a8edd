import pytest

from models import Model
from models.config import load_model_config
from utils.errors import UserError


def rows(name, **extra):
    cfg = load_model_config(name)
    return [*cfg["backbone"], *cfg["head"]]


def test_delta_replaces_exactly_the_six_downsampling_convolutions():
    plain, delta = rows("yolov5n.yaml"), rows("yolov5n-ak5.yaml")
    changed = [i for i, (a, b) in enumerate(zip(plain, delta, strict=True)) if a != b]
    assert changed == [1, 3, 5, 7, 18, 21]
    assert delta[1] == [-1, 1, "AKConv", [128, 5, 2]]


def test_a_name_without_a_file_resolves_by_rule():
    assert rows("yolov5m-ak7.yaml")[3] == [-1, 1, "AKConv", [256, 7, 2]]
    assert sum(row[2] == "AKConv" for row in rows("yolov5s6-ak3.yaml")) == 8


def test_delta_with_options_and_changed_keys(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("base: yolov5n.yaml\nnc: 3\ndownsample: [AKConv, 5, {shape: cross, border: clamp}]\n")
    cfg = load_model_config(file)
    assert cfg["nc"] == 3
    layer = Model(file).model[1]
    assert layer.border == "clamp"
    assert layer.shape[0] == (1, 1)


def test_delta_on_a_file_beside_it(tmp_path):
    (tmp_path / "base.yaml").write_text("base: yolov5n.yaml\ndepth_multiple: 1.0\n")
    (tmp_path / "top.yaml").write_text("base: base.yaml\ndownsample: [LDConv, 2]\n")
    assert load_model_config(tmp_path / "top.yaml")["depth_multiple"] == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: yolov5n.yaml\ndownsampel: [AKConv, 5]\n", "unknown key 'downsampel'; did you mean 'downsample'"),
        ("base: yolov5n.yaml\ndownsample: AKConv\n", "expected for example"),
        ("nc: 3\n", "key 'depth_multiple' is missing"),
        ("- a\n", "expected a mapping"),
        ("nc: [\n", "not valid YAML"),
        ("base: nothing.yaml\n", "nothing.yaml: no such file"),
        ("base: mine.yaml\n", "leads back to itself"),
        ("base: yolov5n.yaml\ndownsample: [AKConv, true]\n", "expected for example"),
    ],
)
def test_mistakes_name_the_file(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        load_model_config(file)
