import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.coco_json import read_category_names, read_coco
from utils.errors import UserError

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat", "supercategory": "animal"}]


def content(*annotations: dict, **changes) -> dict:
    images = [
        {"id": 20, "file_name": "b.jpg", "width": 40, "height": 20},
        {"id": 10, "file_name": "sub/a.png", "width": 100, "height": 200},
    ]
    return {"images": images, "annotations": list(annotations), "categories": CATEGORIES, **changes}


def thing(bbox, *, number=5, category=7, image=20, **more) -> dict:
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "iscrowd": 0, **more}


def write(folder: Path, value) -> Path:
    for name in ("images/b.jpg", "images/sub/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    file = folder / "instances.json"
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    return file


def read(folder: Path, value, names=("cat", "dog")):
    origins = read_coco(write(folder, value), folder / "images", names)
    return {str(Path(image).relative_to(folder / "images")): origin.read() for image, origin in origins.items()}


def test_boxes_by_hand(tmp_path):
    labels = read(
        tmp_path,
        content(
            thing([10, 5, 20, 10]),
            thing([0, 0, 100, 200], image=10, category=3),
            thing([4, 2, 8.5, 3], category=3, number=6),
        ),
    )
    np.testing.assert_allclose(
        labels["b.jpg"].boxes,
        [[1, 20 / 40, 10 / 20, 20 / 40, 10 / 20], [0, 8.25 / 40, 3.5 / 20, 8.5 / 40, 3 / 20]],
        rtol=1e-6,
    )
    assert labels["b.jpg"].boxes.dtype == np.float32
    assert labels["b.jpg"].size == (20, 40)
    np.testing.assert_array_equal(labels["sub/a.png"].boxes, [[0, 0.5, 0.5, 1, 1]])
    assert labels["b.jpg"].polygons == [None, None]
    assert not labels["b.jpg"].warnings


def test_an_image_without_objects_is_a_background(tmp_path):
    labels = read(tmp_path, content(thing([1, 1, 2, 2])))["sub/a.png"]
    assert labels.boxes.shape == (0, 5)
    assert not labels.problems


def test_crowds_empty_boxes_and_duplicates_are_left_out(tmp_path):
    mask = {"counts": [0, 5], "size": [20, 40]}
    labels = read(
        tmp_path,
        content(
            thing([1, 1, 9, 9], iscrowd=1, segmentation=mask),
            thing([1, 1, 0, 9], number="x"),
            thing([1, 1, 9, 9]),
            thing([1, 1, 9, 9], number=8),
        ),
    )["b.jpg"]
    assert len(labels.boxes) == len(labels.polygons) == 1
    assert [warning.split(": ", 1)[1] for warning in labels.warnings] == [
        "annotation x: left out, it has no area",
        "annotation 8: duplicate left out",
    ]


def test_boxes_are_cut_at_the_border_and_counted(tmp_path):
    labels = read(tmp_path, content(thing([-10, 5, 30, 10]), thing([0, 0, 40.0001, 20], number=6)))["b.jpg"]
    np.testing.assert_allclose(labels.boxes, [[1, 0.25, 0.5, 0.5, 0.5], [1, 0.5, 0.5, 1, 1]], rtol=1e-6)
    assert labels.warnings == [f"{tmp_path}/instances.json: annotation 5: cut at the border of the image"]


def test_polygons(tmp_path):
    one = [4, 2, 12, 2, 12, 10]
    two = [20, 2, 30, 2, 30, 10, 20, 10]
    labels = read(
        tmp_path,
        content(
            thing([4, 2, 8, 8], segmentation=[one]),
            thing([4, 2, 26, 8], segmentation=[one, two, [1, 1, 2, 2]]),
            thing([1, 1, 9, 9], segmentation={"counts": "abc", "size": [20, 40]}),
            thing([1, 1, 9, 8], segmentation=[]),
            thing([], segmentation=[two]),
            thing([30, 2, 50, 8], segmentation=[[30, 2, 80, 2, 80, 10]]),
            thing([1, 1, 5, 5], segmentation=[[1, 1, 3, 1, 5, 1]]),
        ),
    )["b.jpg"]
    assert not labels.problems
    assert [polygon is None for polygon in labels.polygons] == [False, False, True, True, False, False, True]
    np.testing.assert_allclose(labels.polygons[0], np.reshape(one, (-1, 2)) / np.array([40, 20]), rtol=1e-6)
    assert labels.polygons[0].dtype == np.float32
    assert len(labels.polygons[1]) == 3 + 4 + 2
    np.testing.assert_allclose(labels.boxes[4], [1, 25 / 40, 6 / 20, 10 / 40, 8 / 20], rtol=1e-6)
    np.testing.assert_allclose(labels.polygons[5].max(axis=0), [1, 0.5])


@pytest.mark.parametrize("bbox", [[1, 2, 3], [1, 2, -3, 4], [1, 2, 3, math.nan], [math.inf, 2, 3, 4], [1, 2, "3", 4],
    [1, 2, True, 4], [1, 2, 10**400, 4], None, {}, "1 2 3 4", [50, 2, 3, 4], [-9, 1, 9, 4]])  # fmt: skip
def test_bad_boxes_are_named(tmp_path, bbox):
    labels = read(tmp_path, content(thing([1, 1, 2, 2]), thing(bbox, number=77)))["b.jpg"]
    assert len(labels.boxes) == 1
    (problem,) = map(str, labels.problems)
    assert problem.startswith(f"{tmp_path}/instances.json: found the bbox ")
    assert "in annotation 77, expected" in problem
    assert problem.endswith("correct or delete it")


@pytest.mark.parametrize("segmentation", ["x", 3, [1, 2, 3, 4, 5, 6], [[1, 2, 3, 4, 5]], [[1, 2, 3, 4, 5, math.nan]]])
def test_bad_polygons_are_named(tmp_path, segmentation):
    labels = read(tmp_path, content(thing([1, 1, 2, 2], segmentation=segmentation)))["b.jpg"]
    assert "in annotation 5, expected a list of polygons" in str(labels.problems[0])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", r"instances.json:1: not valid JSON"),
        ('{"images": [],\n]', r"instances.json:2: not valid JSON"),
        ("[" * 100000, "not valid JSON"),
        ("[]", "found list, expected a COCO JSON with the lists images"),
        ({"images": []}, "found annotations: None, expected"),
        (content(images={}), "found images: {}, expected"),
        (content(annotations=[3]), r"found annotations: \[3\], expected"),
        (content(thing([1, 1, 2, 2], image=99, number=4)), "image_id 99 in annotation 4"),
        (content({"image_id": [20]}), r"image_id None in annotations\[0\]"),
        (content(categories=[{"id": 1}]), "found the category .*'id': 1"),
        (content(categories=[*CATEGORIES, {"id": 7, "name": "cow"}]), "'cow'.*that no other has"),
        (content(categories=[*CATEGORIES, {"id": 8, "name": "cat"}]), "'cat'.*that no other has"),
        (content(categories=CATEGORIES[:1]), "has no category cat, expected the classes"),
        (content(images=[{"id": 1, "file_name": "b.gif", "width": 4, "height": 4}]), "found the image .*b.gif"),
        (content(images=[{"id": 1, "file_name": "b.jpg", "width": 0, "height": 4}]), "a size of 0 x 4 for b.jpg"),
        (content(images=[{"id": 1, "file_name": "b.jpg", "height": 4}]), "a size of None x 4"),
        (content(images=[{"id": i, "file_name": "b.jpg", "width": 4, "height": 4} for i in (1, 2)]), "two images"),
    ],
)
def test_mistakes_of_the_file_are_named(tmp_path, value, expected):
    with pytest.raises(UserError, match=expected) as caught:
        read(tmp_path, value)
    assert str(tmp_path / "instances.json") in str(caught.value)


def test_missing_and_extra_categories(tmp_path):
    extra = [*CATEGORIES, {"id": 1, "name": "animal"}, {"id": 2, "name": "cow"}]
    assert read(tmp_path, content(thing([1, 1, 2, 2]), categories=extra))  # without objects they do no harm
    with pytest.raises(UserError, match=r"has objects of cow, which are not in names and has no category bird, exp"):
        read(tmp_path, content(thing([1, 1, 2, 2], category=2), categories=extra), ("cat", "dog", "bird"))


def test_a_category_that_is_not_listed(tmp_path):
    labels = read(tmp_path, content(thing([1, 1, 2, 2], category=4)))["b.jpg"]
    assert "category_id 4 in annotation 5" in str(labels.problems[0])


def test_missing_images_are_one_error(tmp_path):
    file = write(tmp_path, content())
    for image in (tmp_path / "images/b.jpg", tmp_path / "images/sub/a.png"):
        image.unlink()
    with pytest.raises(UserError, match=rf"{file}: found no image {tmp_path}/images/b.jpg \(and 1 more\), expected"):
        read_coco(file, tmp_path / "images", ["cat", "dog"])


def test_names_are_in_the_order_of_the_ids(tmp_path):
    assert read_category_names(write(tmp_path, content())) == ["cat", "dog"]
    with pytest.raises(UserError, match="cannot be read"):
        read_category_names(tmp_path / "none.json")


@settings(max_examples=40)
@given(x=st.floats(-50, 90), y=st.floats(-30, 50), w=st.floats(0, 100), h=st.floats(0, 100))
def test_every_box_is_inside_or_told(tmp_path_factory, x, y, w, h):
    labels = read(tmp_path_factory.mktemp("set"), content(thing([x, y, w, h])))["b.jpg"]
    assert len(labels.boxes) + len(labels.problems) + sum("no area" in text for text in labels.warnings) == 1
    for _, cx, cy, bw, bh in labels.boxes.tolist():
        assert min(cx - bw / 2, cy - bh / 2) >= -1e-6
        assert max(cx + bw / 2, cy + bh / 2) <= 1 + 1e-6
        assert bw * 40 == pytest.approx(min(x + w, 40) - max(x, 0), abs=1e-4)
