import json

import numpy as np
import pytest

from utils.data.config import load_dataset_config
from utils.data.converters import xview
from utils.errors import UserError


def feature(name, bounds, type_id):
    return {"type": "Feature", "properties": {"image_id": name, "bounds_imcoords": bounds, "type_id": type_id}}


@pytest.fixture
def official(tmp_path, draw):
    folder = tmp_path / "xView"
    for number in range(30):
        draw(folder / "train_images" / f"{number}.tif", (40, 100))
    draw(folder / "val_images" / "99.tif", (40, 100))
    features = [
        feature("2.tif", "20,10,60,20", 11),
        feature("2.tif", "90,-5,130,20", 94),
        feature("2.tif", "0,0,9,9", 75),  # of no class
        feature("2.tif", "100,0,120,9", 18),  # outside
        feature("3.tif", "", 18),
        feature("1395.tif", "0,0,9,9", 18),  # is in no official archive
        feature("0.tif", "0,0,50,20", 18),
    ]
    file = folder / "train_labels" / "xView_train.geojson"
    file.parent.mkdir()
    file.write_text(json.dumps({"type": "FeatureCollection", "crs": {}, "features": features}))
    return folder


def test_labels(official, scanned, snapshot, caplog):
    caplog.set_level("INFO")
    xview.arrange(official)
    once = snapshot(official)
    assert once["labels/train/2.txt"] == (
        b"0 0.400000 0.375000 0.400000 0.250000\n59 0.950000 0.250000 0.100000 0.500000\n"
    )
    assert once["labels/train/3.txt"] == b""
    assert "images/val/99.tif" in once
    assert "1 of its images are not there and were left out (1395.tif)" in caplog.text
    assert "left out 1 objects of a type that is none of the 60 classes" in caplog.text
    train, val = scanned("xView", official, "train"), scanned("xView", official, "val", require_labels=False)
    assert sorted([*train, *val], key=str) == sorted(f"{number}.tif" for number in range(30))
    np.testing.assert_allclose({**train, **val}["0.tif"], [[5, 0.25, 0.25, 0.5, 0.5]])
    xview.arrange(official)
    assert snapshot(official) == once


def test_lists_are_drawn_as_by_yolov5(official):
    xview.arrange(official)
    names = sorted(f"{number}.tif" for number in range(30))
    # random.Random(0).random() >= 0.9 for these of thirty draws
    held_out = [f"./train/{names[number]}" for number in (10, 16, 17, 19, 28, 29)]
    assert (official / "images/autosplit_val.txt").read_text().split() == held_out
    assert len((official / "images/autosplit_train.txt").read_text().split()) == 30 - len(held_out)


def test_linked_files_stay_as_they_are(official, shadow, snapshot):
    before, copy = snapshot(official), shadow(official)
    xview.arrange(copy)
    assert snapshot(official) == before


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (feature("2.tif", "1,2,3", 11), "found 3 columns in features[1], expected 4 (x1,y1,x2,y2)"),
        (feature("2.tif", "1,2,3,x", 11), "found 'x' in features[1], expected a number"),
        (feature("2.tif", [1, 2, 3, 4], 11), "found features[1] "),
        (feature("2.tif", "1,2,3,4", []), "found features[1] "),
        ({"properties": {}}, "found features[1] "),
        (7, "found features[1] 7"),
    ],
)
def test_bad_features_are_named(official, bad, expected):
    file = official / "train_labels/xView_train.geojson"
    file.write_text(json.dumps({"features": [feature("2.tif", "20,10,60,20", 11), bad]}))
    with pytest.raises(UserError) as caught:
        xview.arrange(official)
    assert str(caught.value).startswith(f"{file}: {expected}")


def test_missing_parts_are_named(official, tmp_path):
    with pytest.raises(UserError, match="images/train: found no images"):
        xview.arrange(tmp_path / "none")
    file = official / "train_labels/xView_train.geojson"
    file.write_text(json.dumps({"features": [feature("none.tif", "20,10,60,20", 11)]}))
    with pytest.raises(UserError, match="found none of its images"):
        xview.arrange(official)
    file.unlink()
    with pytest.raises(UserError, match=r"found no xView_train\.geojson"):
        xview.arrange(official)


@pytest.mark.parametrize(
    ("type_id", "name"),
    [(11, "Fixed-wing Aircraft"), (18, "Small Car"), (40, "Maritime Vessel"), (73, "Building"), (94, "Tower")],
)
def test_types_are_the_classes_of_the_data_set_yaml(official, type_id, name):
    (official / "train_labels/xView_train.geojson").write_text(
        json.dumps({"features": [feature("7.tif", "20,10,60,20", type_id)]})
    )
    xview.arrange(official)
    index = int((official / "labels/train/7.txt").read_text().split()[0])
    assert load_dataset_config("xView.yaml").names[index] == name
