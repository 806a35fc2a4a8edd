import pytest
import torch

from models import Model, load_model
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.errors import UserError

TINY = {
    "nc": 2,
    "depth_multiple": 0.33,
    "width_multiple": 0.25,
    "anchors": [[10, 13, 16, 30]],
    "backbone": [[-1, 1, "Conv", [32, 3, 2]], [-1, 1, "AKConv", [64, 3, 2, {"shape": "line"}]]],
    "head": [[-1, 1, "C3", [64]], [[-1], 1, "Detect", ["nc", "anchors"]]],
    "activation": "nn.LeakyReLU(0.3)",
}


def saved(path, model, **changes):
    content = {"cfg": model.cfg, "names": model.names, "stride": model.stride.tolist(), "state": model.state_dict()}
    save_checkpoint(path, Checkpoint(**(content | changes)))
    return path


def test_round_trip_keeps_the_function(tmp_path):
    model = Model(TINY, names={0: "cat", 1: "dog"})
    images = torch.rand(2, 3, 32, 48)
    model(images)  # statistics other than the initial ones
    file = saved(tmp_path / "a.pt", model)
    loaded = load_model(file, fuse=False)
    assert loaded.names == model.names and not loaded.training
    assert loaded.model[1].shape == ((0, 0), (0, 1), (0, 2))
    expected = model.eval().predict(images)
    torch.testing.assert_close(loaded.predict(images), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(load_model(file).predict(images), expected, rtol=1e-4, atol=1e-4)
    assert not any(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("model.2.cv1.conv.weight"), "misses tensor model.2.cv1.conv.weight"),
        (lambda s: s.update({"model.9.x": torch.zeros(1)}), "has an unknown tensor model.9.x"),
        (lambda s: s.update({"model.0.bn.bias": torch.zeros(3)}), "has another shape of tensor model.0.bn.bias"),
    ],
)
def test_a_state_that_does_not_fit_is_named(tmp_path, change, message):
    model = Model(TINY)
    state = dict(model.state_dict())
    change(state)
    file = saved(tmp_path / "bad.pt", model, state=state)
    with pytest.raises(UserError, match=f"bad.pt: .*{message}"):
        load_model(file)


def test_a_description_that_does_not_build_is_named(tmp_path):
    model = Model(TINY)
    file = saved(tmp_path / "bad.pt", model, cfg=model.cfg | {"backbone": [[-1, 1, "Conf", [3]]]})
    with pytest.raises(UserError, match=r"bad.pt: layer 0: unknown module 'Conf'"):
        load_model(file)


def test_strides_that_the_layers_do_not_have_are_named(tmp_path):
    file = saved(tmp_path / "bad.pt", Model(TINY), stride=[16.0])
    with pytest.raises(UserError, match=r"bad.pt: says its strides are \[16.0\], but its layers give \[4.0\]"):
        load_model(file)


def test_missing_file():
    with pytest.raises(UserError, match=r"nowhere\.pt"):
        load_model("nowhere.pt")


def test_official_checkpoint(shared):
    model = load_model(shared / "weights" / "yolov5n_coco.pt")
    assert (model.nc, model.names[0], model.stride.tolist()) == (80, "person", [8, 16, 32])
    assert (model.head.anchors[0, 0] * 8).tolist() == [10, 13]


def test_a_users_own_old_checkpoint(shared):
    model = load_model(shared / "weights" / "yolov5n_helmet.pt")
    assert model.nc == 2
    assert model.predict(torch.rand(1, 3, 64, 96)).isfinite().all()
