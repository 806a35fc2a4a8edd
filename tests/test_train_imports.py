"""train.py and val.py on data sets of COCO JSON and Pascal VOC XML."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

import train
import val
from utils.data.canvas import Canvas
from utils.data.config import load_dataset_config
from utils.data.mosaic import copy_paste
from utils.data.objects import Objects
from utils.data.scan import scan_samples

NET = {
    "nc": 80,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[12, 12, 18, 18]],
    "backbone": [[-1, 1, "Conv", [8, 3, 4]], [-1, 1, "AKConv", [16, 5, 2]]],
    "head": [[[1], 1, "Detect", ["nc", "anchors"]]],
}
NAMES = ["red", "blue"]
COLOURS = ((0, 0, 255), (255, 0, 0))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four images of a red and a blue triangle, with COCO JSON and Pascal VOC XML of them."""
    monkeypatch.setattr("utils.data.scan.CACHE_FOLDER", tmp_path / "cache")
    root = tmp_path / "set"
    for folder in ("pictures", "xml"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(4):
        picture = np.full((48, 64, 3), 200, np.uint8)
        objects = ""
        for cls, colour in enumerate(COLOURS):
            w, h = rng.integers(12, 20, 2).tolist()
            x, y = int(32 * cls + rng.integers(0, 32 - w)), int(rng.integers(0, 48 - h))
            corners = [x, y, x + w, y, x + w, y + h]
            cv2.fillPoly(picture, [np.array(corners).reshape(-1, 2)], colour)
            annotation = {"id": len(annotations), "image_id": number, "category_id": 90 - cls, "bbox": [x, y, w, h]}
            annotations.append({**annotation, "iscrowd": 0, "segmentation": [corners]})
            box = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w + 1}</xmax><ymax>{y + h + 1}</ymax>"
            objects += f"<object><name>{NAMES[cls]}</name><bndbox>{box}</bndbox></object>"
        cv2.imwrite(str(root / "pictures" / f"{number}.png"), picture)
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 48})
        size = "<size><width>64</width><height>48</height></size>"
        (root / "xml" / f"{number}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    categories = [{"id": 90 - cls, "name": name} for cls, name in enumerate(NAMES)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(coco))
    source = {"images": "pictures", "annotations": "instances.json"}
    write_yaml(tmp_path, "json.yaml", train=source, val=source)
    source = {"images": "pictures", "annotations": "xml"}
    write_yaml(tmp_path, "xml.yaml", train=source, val=source, names=NAMES)
    (tmp_path / "net.yaml").write_text(yaml.safe_dump(NET))
    return tmp_path


def write_yaml(folder: Path, name: str, **content: object) -> None:
    (folder / name).write_text(yaml.safe_dump({"path": str(folder / "set"), **content}))


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["json", "xml"])
def test_train_and_evaluate(workplace: Path, kind: str):
    hyp = yaml.safe_load(Path(train.__file__).with_name("data").joinpath("hyps/hyp.scratch-low.yaml").read_text())
    (workplace / "hyp.yaml").write_text(yaml.safe_dump({**hyp, "copy_paste": 1.0}))
    before = snapshot(workplace / "set")
    data, project = str(workplace / f"{kind}.yaml"), str(workplace / "runs")
    common = {"data": data, "imgsz": 64, "batch_size": 4, "workers": 0, "device": "cpu", "project": project}
    files = {"cfg": str(workplace / "net.yaml"), "hyp": str(workplace / "hyp.yaml")}
    evaluation = train.run(**common, **files, epochs=2, noplots=True)
    assert evaluation is not None
    best = workplace / "runs/exp/weights/best.pt"
    again = val.run(val.ValOptions(weights=(str(best),), **common, name="val"))
    assert again.metrics.map50 == pytest.approx(evaluation.metrics.map50, abs=1e-6)
    names = ["blue", "red"] if kind == "json" else NAMES  # of a JSON in the order of its ids
    assert [(row.name, row.instances) for row in again.metrics.per_class] == [(name, 4) for name in names]
    assert snapshot(workplace / "set") == before


def test_both_kinds_give_the_same_boxes(workplace: Path):
    coco, voc = (load_dataset_config(str(workplace / f"{kind}.yaml")) for kind in ("json", "xml"))
    assert [coco.names, voc.names] == [{0: "blue", 1: "red"}, {0: "red", 1: "blue"}]
    pairs = zip(scan_samples(coco.sources("train"), 2), scan_samples(voc.sources("val"), 2), strict=True)
    for first, second in pairs:
        assert first.path == second.path
        np.testing.assert_array_equal(first.labels[:, 0], 1 - second.labels[:, 0])
        np.testing.assert_allclose(first.labels[:, 1:], second.labels[:, 1:], atol=1e-6)


def test_polygons_of_a_json_are_pasted(workplace: Path):
    config = load_dataset_config(str(workplace / "json.yaml"))
    sample = scan_samples(config.sources("train"), config.nc)[0]
    image = np.full((48, 192, 3), 200, np.uint8)
    image[:, :64] = cv2.imread(str(sample.path))
    objects = Objects.from_labels(sample.labels, sample.polygons, (64, 48))
    canvas, more = copy_paste(Canvas.of(image), objects, 1.0, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(more.classes), [0, 0, 1, 1])
    pasted = canvas.whole()
    np.testing.assert_array_equal(pasted[:, :128], image[:, :128])
    for colour in COLOURS:
        old, new = ((half == colour).all(axis=2).sum() for half in (image, pasted[:, 128:]))
        assert 0.9 * old < new <= old
