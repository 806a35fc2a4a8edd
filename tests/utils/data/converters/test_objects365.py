import json

import numpy as np
import pytest

from utils.data.converters import objects365
from utils.errors import UserError

CATEGORIES = [{"id": 1000 - number, "name": f"n{number}"} for number in range(365)]


def write(folder, split, images, boxes, categories=CATEGORIES):
    content = {
        "images": [{"id": i, "file_name": path, "height": h, "width": w} for i, path, h, w in images],
        "annotations": [{"image_id": i, "category_id": c, "bbox": b, "iscrowd": crowd} for i, c, b, crowd in boxes],
        "categories": categories,
    }
    file = folder / f"zhiyuan_objv2_{split}.json"
    file.write_text(json.dumps(content))
    return file


@pytest.fixture
def official(tmp_path, draw):
    folder = tmp_path / "Objects365"
    for path in ("train/patch0/o_1.jpg", "train/patch50/o_2.jpg", "val/v1/patch3/o_3.jpg"):
        draw(folder / "images" / path, (40, 100))
    train = [
        (11, "images/v1/patch0/o_1.jpg", 40, 100),
        (5, "images/v2/patch50/o_2.jpg", 40, 100),
        (6, "x/o_9.jpg", 9, 9),
    ]
    boxes = [
        (11, 1000, [20, 10, 40, 10], 0),
        (11, 636, [90.5, -5, 30, 25], 0),
        (11, 636, [0, 0, 9, 9], 1),
        (6, 636, [0, 0, 9, 9], 0),
    ]
    write(folder, "train", train, boxes)
    write(folder, "val", [(1, "images/v1/patch3/o_3.jpg", 40, 100)], [(1, 999, [0, 0, 50, 20], 0)])
    return folder


def test_labels(official, scanned, snapshot, caplog):
    objects365.arrange(official)
    once = snapshot(official)
    assert once["labels/train/o_1.txt"] == (
        b"0 0.400000 0.375000 0.400000 0.250000\n364 0.952500 0.250000 0.095000 0.500000\n"
    )
    assert once["labels/train/o_2.txt"] == b""
    assert sorted(scanned("Objects365", official, "train")) == ["o_1.jpg", "o_2.jpg"]
    np.testing.assert_allclose(scanned("Objects365", official, "val")["o_3.jpg"], [[1, 0.25, 0.25, 0.5, 0.5]])
    assert "1 of its images are not there and were left out (o_9.jpg)" in caplog.text
    objects365.arrange(official)
    assert snapshot(official) == once


@pytest.mark.parametrize("parent", ["images/val", "val"])
def test_one_split_is_enough_in_either_place(tmp_path, draw, parent):
    draw(tmp_path / parent / "images/v2/patch16/o_3.jpg", (40, 100))
    write(tmp_path, "val", [(1, "images/v2/patch16/o_3.jpg", 40, 100)], [(1, 999, [0, 0, 50, 20], 0)])
    objects365.arrange(tmp_path)
    assert (tmp_path / "images/val/o_3.jpg").is_file()
    assert (tmp_path / "labels/val/o_3.txt").read_text() == "1 0.250000 0.250000 0.500000 0.500000\n"
    assert not (tmp_path / "labels/train").exists()


def test_linked_files_stay_as_they_are(official, shadow, snapshot):
    before, copy = snapshot(official), shadow(official)
    objects365.arrange(copy)
    assert snapshot(official) == before


def test_mistakes_are_named(official, tmp_path, draw):
    with pytest.raises(UserError, match="found no images below images/train and images/val"):
        objects365.arrange(tmp_path / "none")
    image = (1, "o_1.jpg", 40, 100)
    for images, boxes, categories, expected in [
        ([image], [], CATEGORIES[:-1], "found 364 different categories, expected the 365"),
        ([image], [], [*CATEGORIES[:-1], CATEGORIES[0]], "found 364 different categories"),
        ([image], [(1, 3, [0, 0, 1, 1], 0)], CATEGORIES, "found category_id 3"),
        ([image], [], [*CATEGORIES[:-1], {"id": []}], "found 364 different categories"),
        ([(1, [], 40, 100)], [], CATEGORIES, "neither texts nor whole numbers"),
        ([(1, "o_1.jpg", 0, 100)], [], CATEGORIES, r"found a size of 100 x 0 for o_1\.jpg"),
        ([(1, "o_1.jpg", 100, 40)], [], CATEGORIES, r"found a size of 40 x 100 for .*o_1\.jpg, expected 100 x 40"),
        ([(1, "o_7.jpg", 40, 100)], [], CATEGORIES, "found none of its images"),
    ]:
        write(official, "train", images, boxes, categories)
        with pytest.raises(UserError, match=expected):
            objects365.arrange(official)
    (official / "zhiyuan_objv2_train.json").unlink()
    with pytest.raises(UserError, match=r"found images/train, but no zhiyuan_objv2_train\.json"):
        objects365.arrange(official)
    draw(official / "images/train/patch1/o_2.jpg", (40, 100))
    with pytest.raises(UserError, match=r"train/o_2\.jpg: found it and .*patch1/o_2\.jpg"):
        objects365.arrange(official)
