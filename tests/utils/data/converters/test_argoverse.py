import json

import numpy as np
import pytest

from utils.data.converters import argoverse
from utils.errors import UserError


def annotations(sequences, images, boxes):
    return {
        "categories": [],
        "images": [{"id": i, "name": name, "sid": sid} for i, name, sid in images],
        "seq_dirs": sequences,
        "annotations": [{"image_id": i, "category_id": c, "bbox": bbox} for i, c, bbox in boxes],
    }


@pytest.fixture
def official(tmp_path, draw):
    folder = tmp_path / "Argoverse"
    contents = {
        "train": annotations(
            ["train/one/ring", "train/two/ring"],
            [(50, "x.jpg", 1), (3, "x.jpg", 0), (4, "y.jpg", 0)],  # ids are no positions
            [(3, 0, [0, 0, 960, 600]), (50, 7, [1440, 900, 960, 600]), (3, 2, [96, 60, 192, 120])],
        ),
        "val": annotations(["val/three/ring"], [(0, "z.jpg", 0)], [(0, 1, [0, 0, 0, 5])]),
    }
    for split, content in contents.items():
        file = folder / "Argoverse-HD/annotations" / f"{split}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    for name in ("train/two/ring/x.jpg", "train/one/ring/x.jpg", "train/one/ring/y.jpg", "val/three/ring/z.jpg"):
        draw(folder / "Argoverse-1.1/tracking" / name, (12, 19))
    return folder


def test_labels_follow_ids(official, scanned):
    argoverse.arrange(official)
    labels = official / "Argoverse-1.1/labels"
    assert {str(p.relative_to(labels)): p.read_text() for p in labels.rglob("*.txt")} == {
        "train/one/ring/x.txt": "0 0.250000 0.250000 0.500000 0.500000\n2 0.100000 0.100000 0.100000 0.100000\n",
        "train/one/ring/y.txt": "",
        "train/two/ring/x.txt": "7 0.875000 0.875000 0.250000 0.250000\n",
        "val/three/ring/z.txt": "",
    }
    found = scanned("Argoverse", official, "train")
    np.testing.assert_array_equal(sorted(len(labels) for labels in found.values()), [0, 1])  # x.jpg is there twice
    assert len(scanned("Argoverse", official, "val", require_labels=False)["z.jpg"]) == 0


def test_linked_files_stay_as_they_are_and_twice_gives_the_same(official, shadow, snapshot):
    before, copy = snapshot(official), shadow(official)
    argoverse.arrange(copy)
    once = snapshot(copy)
    argoverse.arrange(copy)
    assert snapshot(copy) == once
    assert snapshot(official) == before


def test_one_split_is_enough(official):
    (official / "Argoverse-1.1/tracking/val/three/ring/z.jpg").unlink()
    for folder in ("three/ring", "three", "."):
        (official / "Argoverse-1.1/tracking/val" / folder).rmdir()
    (official / "Argoverse-HD/annotations/val.json").unlink()
    argoverse.arrange(official)
    assert [p.name for p in (official / "Argoverse-1.1/labels").iterdir()] == ["train"]


def test_mistakes_are_named(official, tmp_path, draw):
    with pytest.raises(UserError, match="found no tracking/train and no tracking/val"):
        argoverse.arrange(tmp_path)
    file = official / "Argoverse-HD/annotations/train.json"
    good = json.loads(file.read_text())
    for change, expected in [
        ({"seq_dirs": ["../../../.."]}, r"train\.json: found no image"),
        ({"images": [{"id": 3, "name": "none.jpg", "sid": 0}]}, "found image_id 50"),
        ({"images": [{"id": i, "name": "none.jpg", "sid": 0} for i in (3, 50)]}, r"one/ring/none\.jpg"),
        ({"annotations": [{"image_id": 3, "category_id": 8, "bbox": [0, 0, 1, 1]}]}, "found category_id 8"),
    ]:
        file.write_text(json.dumps({**good, **change}))
        with pytest.raises(UserError, match=expected):
            argoverse.arrange(official)
    file.write_text(json.dumps(good))
    draw(official / "Argoverse-1.1/images/train/one/ring/y.jpg", (19, 12))
    with pytest.raises(UserError, match=r"train\.json: found a size of 1920 x 1200 for .*y\.jpg, expected 12 x 19"):
        argoverse.arrange(official)
    file.unlink()
    with pytest.raises(UserError, match=r"train\.json: cannot be read"):
        argoverse.arrange(official)
