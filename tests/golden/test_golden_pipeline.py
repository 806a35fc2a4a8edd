import json

import numpy as np
import pytest
import torch
import yaml

import val
from models import load_model
from tests.golden.arrays import assert_near, load
from utils.boxes import letterbox_geometry, paired_iou, unletterbox
from utils.data.images import letterbox
from utils.evaluation.confusion import ConfusionMatrix
from utils.evaluation.matching import GroundTruth
from utils.evaluation.metrics import average_precision
from utils.nms import Detections, non_max_suppression
from utils.training.assign import assign_targets
from utils.training.hyp import Hyp
from utils.training.loss import DetectionLoss, LossGains, total_loss

ARRAYS = "akconv blocks model loss nms letterbox ap"
SINGLE = "detect_head.npz iou.npz scale_boxes.npz confusion.npz val.json"


def test_folder_has_recordings(golden):
    found = [name for name in ARRAYS.split() if any((golden / name).glob("*.npz"))]
    found += [name for name in SINGLE.split() if (golden / name).exists()]
    assert found, f"{golden} has none of the recordings {ARRAYS} {SINGLE}; is it the right folder for --golden?"


def _loss(recording):
    arrays = load(recording)
    given = json.loads(str(arrays["hyp"]))
    smoothing = given.pop("label_smoothing")
    hyp = Hyp(**given)
    gains = LossGains(box=hyp.box, obj=hyp.obj, cls=hyp.cls)  # recorded after scaling
    anchors = torch.from_numpy(arrays["anchors_grid_units"])
    loss = DetectionLoss(anchors, int(arrays["nc"]), hyp, gains, label_smoothing=smoothing)
    raw = [torch.from_numpy(arrays[f"p{i}"]).requires_grad_() for i in range(len(anchors))]
    return arrays, loss, raw, anchors, hyp


@pytest.mark.recordings("loss/case?.npz")
def test_assignment(recording):
    arrays, _, raw, anchors, hyp = _loss(recording)
    levels = assign_targets(torch.from_numpy(arrays["targets"]), [p.shape[2:4] for p in raw], anchors, hyp.anchor_t)
    for i, level in enumerate(levels):
        for name, actual in zip(
            ("tcls", "b", "a", "gj", "gi"),
            (level.classes, level.image, level.anchor, level.row, level.col),
            strict=True,
        ):
            assert actual.tolist() == arrays[f"{name}{i}"].tolist(), f"{name}{i}"
        assert_near(level.boxes, arrays[f"tbox{i}"], 1e-5)
        assert_near(level.anchors, arrays[f"anch{i}"], 1e-5)


@pytest.mark.recordings("loss/case?.npz")
def test_loss(recording):
    arrays, loss, raw, _, _ = _loss(recording)
    parts = loss(raw, torch.from_numpy(arrays["targets"]))
    assert_near(torch.stack([parts[k] for k in ("box", "obj", "cls")]), arrays["items"], 1e-5)
    total = total_loss(parts, len(raw[0]))
    assert_near(total.view(1), arrays["loss"], 1e-5)
    total.backward()
    for i, level in enumerate(raw):
        assert_near(level.grad, arrays[f"g{i}"], 1e-5)


@pytest.mark.recordings("loss/case?_empty.npz")
def test_loss_without_targets(recording):
    _, loss, raw, _, _ = _loss(recording.with_name(recording.name.replace("_empty", "")))
    expected = load(recording)
    parts = loss(raw, torch.zeros(0, 6))
    assert_near(torch.stack([parts[k] for k in ("box", "obj", "cls")]), expected["items"], 1e-5)
    assert_near(total_loss(parts, len(raw[0])).view(1), expected["loss"], 1e-5)


@pytest.mark.recordings("nms/*.npz")
def test_nms(recording):
    arrays = load(recording)
    found = non_max_suppression(torch.from_numpy(arrays["pred"]), **json.loads(str(arrays["kwargs"])))
    for i, detections in enumerate(found):
        expected = torch.from_numpy(arrays[f"out{i}"])
        assert detections.cls.tolist() == expected[:, 5].tolist()
        assert_near(detections.xyxy, expected[:, :4].numpy(), 1e-5)
        assert_near(detections.conf, expected[:, 4].numpy(), 1e-5)


@pytest.mark.recordings("letterbox/*.npz")
def test_letterbox(recording):
    arrays = load(recording)
    given = json.loads(str(arrays["kwargs"]))
    ours = {"scaleFill": "scale_fill", "scaleup": "scale_up"}
    shape = arrays["new_shape"].tolist()
    options = {ours.get(key, key): value for key, value in given.items()}
    image, ratio, pad = letterbox(arrays["im"], tuple(shape) if isinstance(shape, list) else shape, **options)
    assert image.shape == arrays["out"].shape
    assert np.abs(image.astype(int) - arrays["out"]).max() <= 1
    assert ratio == pytest.approx(arrays["ratio"].tolist(), abs=1e-12)
    assert pad == pytest.approx(arrays["pad"].tolist(), abs=1e-12)


@pytest.mark.recordings("ap/*.npz")
def test_average_precision(recording):
    arrays = load(recording)
    curves = average_precision(arrays["tp"], arrays["conf"], arrays["pred_cls"], arrays["target_cls"])
    assert curves.classes.tolist() == arrays["classes"].tolist()
    pairs = {"tp_out": curves.tp, "fp_out": curves.fp, "p": curves.precision, "r": curves.recall, "f1": curves.f1}
    for name, actual in {**pairs, "ap": curves.ap}.items():
        np.testing.assert_allclose(actual, arrays[name], rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.recordings("iou.npz")
def test_iou(recording):
    arrays = load(recording)
    a, b = (torch.from_numpy(arrays[name]) for name in ("a_xywh", "b_xywh"))
    for kind in ("iou", "giou", "diou", "ciou"):
        assert_near(paired_iou(a, b, kind=kind), arrays[kind][:, 0], 1e-5)


@pytest.mark.recordings("scale_boxes.npz")
def test_unletterbox(recording):
    arrays = load(recording)
    boxes = torch.from_numpy(arrays["boxes"])
    for suffix in ("", "b"):
        shape, original = (tuple(arrays[name + suffix].tolist()) for name in ("img1", "img0"))
        assert_near(unletterbox(boxes, original, *letterbox_geometry(shape, original)), arrays["out" + suffix], 1e-5)


@pytest.mark.recordings("confusion.npz")
def test_confusion_matrix(recording):
    arrays = load(recording)
    labels, found = (torch.from_numpy(arrays[name]) for name in ("labels", "detections"))
    matrix = ConfusionMatrix(len(arrays["matrix"]) - 1)
    matrix.update(
        Detections(found[:, :4], found[:, 4], found[:, 5].long()), GroundTruth(labels[:, 1:], labels[:, 0].long())
    )
    assert np.asarray(matrix.matrix).tolist() == arrays["matrix"].tolist()


SPLITS = {
    "coco128_val": ("coco128", "val2017"),
    "coco128_train": ("coco128", "train2017"),
    "cocomini_val": ("cocomini", "val2017"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.recordings("val.json")
def test_whole_pipeline(recording, name, tmp_path):
    expected = json.loads(recording.read_text()).get(name) or pytest.skip(f"{recording.name} has no {name}")
    weights = recording.parents[1] / "weights" / "yolov5n_coco.pt"
    folder, split = SPLITS[name]
    root = recording.parents[1] / "data" / folder
    if not (weights.exists() and root.exists()):
        pytest.skip(f"no {weights.name} and {folder} in folders 'weights' and 'data' beside the recordings")
    names = load_model(weights).names
    data = tmp_path / "data.yaml"
    data.write_text(yaml.safe_dump({"path": str(root), "train": "images", "val": f"images/{split}", "names": names}))
    options = val.ValOptions(data=str(data), weights=(str(weights),), batch_size=16, project=str(tmp_path))
    metrics = val.run(options).metrics
    assert metrics.map50 == pytest.approx(expected["mAP50"], abs=0.001)
    assert metrics.map == pytest.approx(expected["mAP50_95"], abs=0.001)
    assert metrics.precision == pytest.approx(expected["P"], abs=0.005)
    assert metrics.recall == pytest.approx(expected["R"], abs=0.005)
