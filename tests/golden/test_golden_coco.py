import json

import pytest
import yaml

import val
from utils.evaluation.coco import COCO_NAMES

HALF_A_PIXEL = 0.004
"""The recorded evaluation moves what it found in oddly padded images by half a pixel on the way back, which boxes of
small objects notice."""


def evaluate(recording, folder, iou_thres: float, *, published_pads: bool):
    weights = recording.parents[1] / "weights" / "yolov5n_coco.pt"
    root = recording.parents[1] / "data" / "cocomini"
    if not (weights.exists() and root.exists()):
        pytest.skip(f"no {weights.name} and cocomini in folders 'weights' and 'data' beside the recordings")
    recorded = json.loads(recording.read_text())["cocomini_val"][f"coco_api_12_stats_nms_iou_{iou_thres:.2f}"]
    source = {"images": "images/val2017", "annotations": "annotations/instances_val2017.json"}
    names = val.load_dataset_config("coco128.yaml").names
    data = folder / "data.yaml"
    data.write_text(yaml.safe_dump({"path": str(root), "train": source, "val": source, "names": names}))
    options = val.ValOptions(
        data=str(data),
        weights=(str(weights),),
        batch_size=16,
        iou_thres=iou_thres,
        project=str(folder),
        published_pads=published_pads,
    )
    measured = val.run(options).coco
    assert measured is not None
    assert measured.truth == "instances_val2017.json"
    return dict(zip(COCO_NAMES, recorded, strict=True)), {name: getattr(measured, name) for name in COCO_NAMES}


@pytest.mark.slow
@pytest.mark.parametrize("iou_thres", [0.60, 0.65])
@pytest.mark.recordings("val.json")
def test_the_numbers_with_published_pads(recording, iou_thres, tmp_path):
    recorded, measured = evaluate(recording, tmp_path, iou_thres, published_pads=True)
    assert measured == pytest.approx(recorded, abs=0.001)


@pytest.mark.slow
@pytest.mark.recordings("val.json")
def test_the_numbers(recording, tmp_path):
    recorded, measured = evaluate(recording, tmp_path, 0.60, published_pads=False)
    assert measured == pytest.approx(recorded, abs=HALF_A_PIXEL)
    for name in ("AP", "AP50", "AP75"):
        assert measured[name] == pytest.approx(recorded[name], abs=0.001)
