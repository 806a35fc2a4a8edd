"""What --weights, --augment, --half and --dnn make together, and ensembles."""

import pytest
import torch

from models import Model
from models.augmented import Augmented
from models.ensemble import Ensemble
from models.inference import infer, load_detector, warm_up
from models.onnx import OnnxModel
from tests.onnx_files import reshaping_detector
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.errors import UserError


def saved(path, names=("cat", "dog"), cfg="yolov5n.yaml"):
    model = Model(cfg, names=dict(enumerate(names)))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_checkpoint(path, Checkpoint(dict(model.cfg), model.names, model.stride.tolist(), state))
    return str(path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("weights")
    return [saved(folder / "a.pt"), saved(folder / "b.pt")]


def test_one_model_is_itself(pair):
    model = load_detector(pair[:1], device="cpu")
    assert isinstance(model, Model) and not model.training


def test_an_ensemble_has_the_predictions_of_all_members(pair):
    both = load_detector(pair, device="cpu")
    assert isinstance(both, Ensemble) and not any(module.training for module in both.modules())
    assert (both.names, both.nc, both.stride.tolist()) == ({0: "cat", 1: "dog"}, 2, [8, 16, 32])
    images = torch.rand(2, 3, 64, 96)
    alone = [infer(load_detector([path], device="cpu"), images) for path in pair]
    assert not torch.equal(*alone)
    torch.testing.assert_close(infer(both, images), torch.cat(alone, 1))


def test_an_ensemble_takes_images_that_suit_all_members():
    members = [Model(cfg, nc=1).eval() for cfg in ("yolov5n.yaml", "yolov5n6.yaml", "yolov5n.yaml")]
    assert Ensemble(members).stride.tolist() == [8, 16, 32, 64]


def test_each_member_can_be_augmented(pair):
    both = load_detector(pair, device="cpu", augment=True)
    assert isinstance(both, Ensemble) and all(isinstance(member, Augmented) for member in both.members)
    images = torch.rand(1, 3, 64, 64)
    alone = [infer(load_detector([path], device="cpu", augment=True), images) for path in pair]
    torch.testing.assert_close(infer(both, images), torch.cat(alone, 1))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("cat", "dog", "cow"),
            r"c\.pt and .*a\.pt know different classes \(3 classes and 2\); give models of one set",
        ),
        (("cat", "cow"), r"c\.pt and .*a\.pt know different classes \(class 1 is 'cow' and 'dog'\)"),
    ],
)
def test_members_know_the_same_classes(tmp_path, pair, names, message):
    with pytest.raises(UserError, match=message):
        load_detector([*pair, saved(tmp_path / "c.pt", names)], device="cpu")


def test_opencv_computes_an_onnx_file(tmp_path):
    file = str(reshaping_detector(tmp_path / "a.onnx"))
    model = load_detector([file], dnn=True)
    assert isinstance(model, OnnxModel) and not model.training
    images = torch.rand(1, 3, 32, 64)
    torch.testing.assert_close(infer(model, images), images.reshape(1, -1, 6))
    warm_up(model, (32, 64))


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        (["a.onnx"], {}, "--weights a.onnx: OpenCV computes .onnx files; add --dnn"),
        (["a.pt", "b.ONNX"], {}, "--weights b.ONNX: OpenCV computes .onnx files; add --dnn"),
        (["best.onnx.pt"], {"dnn": True}, "--dnn: computes .onnx files, found --weights best.onnx.pt; leave --dnn out"),
        (["a.onnx", "b.onnx"], {"dnn": True}, "--dnn: computes one .onnx file, found --weights a.onnx b.onnx"),
        (["a.onnx", "b.pt"], {"dnn": True}, "--dnn: computes one .onnx file"),
        (["a.onnx"], {"dnn": True, "augment": True}, "--augment: looks at images in several sizes"),
        (["a.onnx"], {"dnn": True, "device": "0"}, "--device 0: with --dnn, OpenCV computes on the CPU"),
        (["a.onnx"], {"dnn": True, "half": True}, "--half needs a CUDA GPU, this run is on cpu"),
        (["a.pt"], {"device": "cpu", "half": True}, "--half needs a CUDA GPU, this run is on cpu"),
    ],
)
def test_options_that_do_not_go_together(weights, options, message):
    with pytest.raises(UserError) as error:
        load_detector(weights, **options)
    assert str(error.value).startswith(message)
