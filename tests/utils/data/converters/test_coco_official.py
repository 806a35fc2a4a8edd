import json

import pytest

from utils.data.config import load_dataset_config
from utils.data.converters.coco import arrange
from utils.errors import UserError

NAMES = load_dataset_config("coco.yaml").names


@pytest.fixture
def official(tmp_path, draw):
    """An official folder with the given boxes in its first val image, which is 60 px wide and 30 high."""

    def make(*boxes, **changes):
        folder = tmp_path / "official"
        names = ["000000000007.jpg", "000000000005.jpg"]
        content = {
            "images": [{"id": i, "file_name": name, "width": 60, "height": 30} for i, name in enumerate(names)],
            "annotations": [{"id": i, "image_id": 0, "category_id": 4, "bbox": box} for i, box in enumerate(boxes)],
            "categories": [{"id": 2 * index, "name": name} for index, name in NAMES.items()],
        }
        for name in names:
            draw(folder / "val2017" / name, (30, 60))
        (folder / "annotations").mkdir()
        (folder / "annotations/instances_val2017.json").write_text(json.dumps(content | changes))
        return folder

    return make


def test_arrange(official, scanned):
    folder = official([6, 3, 12, 9], [30, 0, 40, 30])
    arrange(folder)
    labels = scanned("coco", folder, "val")
    assert sorted(labels) == ["000000000005.jpg", "000000000007.jpg"]
    rows = (folder / "labels/val2017/000000000007.txt").read_text().splitlines()
    assert rows == ["2 0.2 0.25 0.2 0.3", "2 0.75 0.5 0.5 1"]  # the second is cut at the border
    assert (folder / "labels/val2017/000000000005.txt").read_text() == ""
    assert (folder / "val2017.txt").read_text().split() == [f"./images/val2017/{name}" for name in sorted(labels)]


def test_small_boxes_keep_their_digits(official, scanned):
    folder = official([59.123456, 0, 0.00001, 30])
    arrange(folder)
    _, x, _, w, _ = map(float, (folder / "labels/val2017/000000000007.txt").read_text().split())
    assert x == pytest.approx(59.123461 / 60, rel=2e-7)
    assert w == pytest.approx(0.00001 / 60, rel=1e-6)


def test_images_may_lie_in_images(official, snapshot):
    folder = official([6, 3, 12, 9])
    (folder / "images").mkdir()
    (folder / "val2017").rename(folder / "images" / "val2017")
    arrange(folder)
    assert "labels/val2017/000000000007.txt" in snapshot(folder)


def test_files_that_are_linked_elsewhere_stay(official, shadow, snapshot):
    folder = official([6, 3, 12, 9])
    (folder / "labels/val2017").mkdir(parents=True)
    (folder / "labels/val2017/000000000007.txt").write_text("mine")
    (folder / "val2017.txt").write_text("mine")
    before = snapshot(folder)
    arrange(shadow(folder))
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [{"id": 3, "image_id": 0, "category_id": 4, "bbox": [70, 3, 9, 9]}]}, "annotation 3"),
        ({"annotations": [{"id": 3, "image_id": 9, "category_id": 4, "bbox": [0, 0, 9, 9]}]}, "image_id 9"),
        ({"categories": [{"id": 1, "name": "person"}]}, "has no category"),
        ({"images": [{"id": 0, "file_name": "8.jpg", "width": 60, "height": 30}]}, r"found no image .*8\.jpg"),
        ({"images": 3}, "expected a COCO JSON"),
    ],
)
def test_bad_annotations_are_named(official, changes, message):
    with pytest.raises(UserError, match=message):
        arrange(official(**changes))
