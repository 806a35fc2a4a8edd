import json

import pytest
import torch

from models import AKConv, layers, load_model
from models.head import Detect
from models.ops import initial_shape
from tests.golden.arrays import assert_near, below, load
from utils.nms import non_max_suppression


@pytest.mark.recordings("akconv/initial_shapes.json")
def test_initial_shapes(recording):
    shapes = json.loads(recording.read_text())
    assert shapes
    for n, points in shapes.items():
        assert initial_shape(int(n)) == tuple(map(tuple, points))


@pytest.mark.recordings("akconv/n*.npz")
def test_akconv(recording):
    arrays = load(recording)
    c1, c2, n, stride = (int(arrays[k]) for k in ("c1", "c2", "num_param", "stride"))
    state = below(arrays, "sd/")
    layer = AKConv(c1, c2, n, stride, bias="conv.0.bias" in state)
    layer.load_state_dict(state)
    x = torch.from_numpy(arrays["x"]).requires_grad_()
    assert_near(layer.eval()(x), arrays["y_eval"], 1e-5)
    y = layer.train()(x)
    assert_near(y, arrays["y_train"], 1e-5)
    y.backward(torch.from_numpy(arrays["dy"]))
    assert_near(x.grad, arrays["grad_x"], 1e-4)
    parameters = dict(layer.named_parameters())
    grads = below(arrays, "grad/")
    assert grads.keys() == parameters.keys()
    for name, grad in grads.items():
        assert_near(parameters[name].grad, grad.numpy(), 1e-4)


_BLOCKS = {
    "Conv": lambda: layers.Conv(4, 6, 3, 2),
    "Conv6": lambda: layers.Conv(3, 4, 6, 2, 2),
    "DWConv": lambda: layers.DWConv(4, 8, 3, 1),
    "C3": lambda: layers.C3(8, 8, 2),
    "C3_noshort": lambda: layers.C3(8, 12, 1, False),
    "SPPF": lambda: layers.SPPF(8, 8, 5),
    "SPP": lambda: layers.SPP(8, 8),
    "Focus": lambda: layers.Focus(3, 8, 3),
    "GhostConv": lambda: layers.GhostConv(8, 8, 1),
    "C3Ghost": lambda: layers.C3Ghost(8, 8, 1),
    "BottleneckCSP": lambda: layers.BottleneckCSP(8, 8, 1),
    "C3TR": lambda: layers.C3TR(8, 8, 1),
    "C3x": lambda: layers.C3x(8, 8, 1),
    "CrossConv": lambda: layers.CrossConv(8, 8, 3, 1),
    "C3SPP": lambda: layers.C3SPP(8, 8),
}


@pytest.mark.recordings("blocks/*.npz")
def test_block(recording):
    arrays = load(recording)
    block = _BLOCKS[recording.stem]()
    block.load_state_dict(below(arrays, "sd/"))
    norms = [m for m in block.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == len(arrays["bn_eps"])
    for norm, eps in zip(norms, arrays["bn_eps"].tolist(), strict=True):
        norm.eps = eps
    assert_near(block.eval()(torch.from_numpy(arrays["x"])), arrays["y"], 1e-5)


@pytest.mark.recordings("detect_head.npz")
def test_detect_head(recording):
    arrays = load(recording)
    features = [torch.from_numpy(arrays[f"f{i}"]) for i in range(3)]
    anchors = torch.from_numpy(arrays["anchors"]).flatten(1).tolist()
    head = Detect(arrays["z"].shape[-1] - 5, anchors, [f.shape[1] for f in features])
    head.load_state_dict(below(arrays, "sd/"))
    head.stride.copy_(torch.from_numpy(arrays["stride"]))
    raw = head(features)
    for i in range(3):
        assert_near(raw[i], arrays[f"raw{i}"], 1e-4)
    assert_near(head.decode(raw), arrays["z"], 1e-4)


@pytest.mark.recordings("model/*.npz")
def test_model(recording):
    weights = recording.parents[2] / "weights" / "yolov5n_coco.pt"
    if not weights.exists():
        pytest.skip(f"no {weights.name} in a folder 'weights' beside the recordings")
    arrays = load(recording)
    model = load_model(weights)
    image = torch.from_numpy(arrays["image_rgb_uint8"]).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        decoded = model.predict(image)
    expected = torch.from_numpy(arrays["decoded"])
    assert (decoded[..., :4] - expected[..., :4]).abs().max() < 1e-3
    assert (decoded[..., 4:] - expected[..., 4:]).abs().max() < 1e-4
    (found,) = non_max_suppression(decoded)
    boxes = torch.from_numpy(arrays["nms"])
    assert found.cls.tolist() == boxes[:, 5].tolist()
    assert (found.xyxy - boxes[:, :4]).abs().max() < 1e-3
    assert (found.conf - boxes[:, 4]).abs().max() < 1e-4
