import json

import numpy as np
import pytest

from utils.data.converters.coco_table import read_coco_table
from utils.errors import UserError


def write(tmp_path, content):
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(content))
    return file


def box(image, category, bbox, **more):
    return {"image_id": image, "category_id": category, "bbox": bbox, **more}


def image(index, name="a", **more):
    return {"id": index, "file_name": name, **more}


def test_boxes_by_image_in_the_order_of_the_file(tmp_path):
    content = {
        "annotations": [
            box(7, 3, [1, 2, 3.5, 4]),
            box(900000000000, 5, [0, 0, 1, 1]),
            box(7, 5, [9, 9, 1, 1], iscrowd=1),
            box(7, 5, [5, 6, 7, 8], iscrowd=0),
        ],
        "images": [image(900000000000, "b"), image(8, "c"), image(7, "a")],
        "extra": ["x", 1],
    }
    table = read_coco_table(write(tmp_path, content), ("file_name",), ("extra", "none"))
    assert table.others == {"extra": ["x", 1], "none": []}
    assert list(table.by_image({3: 0, 5: 1})) == [
        (("b",), [(1, 0.0, 0.0, 1.0, 1.0)]),
        (("c",), []),
        (("a",), [(0, 1.0, 2.0, 4.5, 6.0), (1, 5.0, 6.0, 12.0, 14.0)]),
    ]


def test_no_annotation_at_all(tmp_path):
    table = read_coco_table(write(tmp_path, {"images": [image(1)], "annotations": []}), ("file_name",))
    assert list(table.by_image({})) == [(("a",), [])]


@pytest.mark.parametrize(
    ("images", "annotations", "expected"),
    [
        ([image(1)], [box(2, 3, [0, 0, 1, 1])], "found image_id 2 in annotations"),
        ([image(1)], [box(1, 4, [0, 0, 1, 1])], "found category_id 4 in annotations"),
        ([image(1), image(1)], [], "id 1 is no number of its own"),
        ([image("1")], [], "id '1' is no number"),
        ([{"id": 1}], [], "KeyError('file_name')"),
        ([5], [], "found 5 in images"),
        ([image(1)], [[]], "found [] in annotations"),
        ([image(1)], [{"image_id": 1, "category_id": 3}], "KeyError('bbox')"),
        ([image(1)], [box(1, 3, [0, 0, 1])], "bbox is not left, top, width, height"),
        ([image(1)], [box(1, 3, [0, 0, 1, float("nan")])], "bbox is not"),
        ([image(1)], [box(1, 3, [0, 0, 1, float("inf")])], "bbox is not"),
        ([image(1)], [box(1, 3, "0011")], "in annotations"),
        ([image(1)], [box(1.5, 3, [0, 0, 1, 1])], "in annotations"),
        ([image(1)], [box(1, 10**30, [0, 0, 1, 1])], "OverflowError"),
    ],
)
def test_bad_entries_are_named(tmp_path, images, annotations, expected):
    file = write(tmp_path, {"images": images, "annotations": annotations})
    with pytest.raises(UserError) as caught:
        list(read_coco_table(file, ("file_name",)).by_image({3: 0}))
    assert str(caught.value).startswith(f"{file}: found ")
    assert expected in str(caught.value)


def test_boxes_equal_those_of_the_published_yolo_labels(shared):
    file = shared / "data/cocomini/annotations/instances_val2017.json"
    table = read_coco_table(file, ("file_name", "height", "width"), ("categories",))
    classes = {category["id"]: index for index, category in enumerate(table.others["categories"])}
    compared = 0
    for (name, height, width), boxes in table.by_image(classes):
        label = shared / "data/cocomini/labels/val2017" / name.replace(".jpg", ".txt")
        expected = np.loadtxt(label, ndmin=2).reshape(-1, 5) if label.exists() else np.zeros((0, 5))
        corners = np.array(boxes).reshape(-1, 5)
        size = np.array([width, height])
        centres, extents = (corners[:, 1:3] + corners[:, 3:]) / 2 / size, (corners[:, 3:] - corners[:, 1:3]) / size
        found = np.c_[corners[:, 0], centres, extents]
        np.testing.assert_allclose(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)], atol=2e-6)
        compared += len(expected)
    assert compared > 300
