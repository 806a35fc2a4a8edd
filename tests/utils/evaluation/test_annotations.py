import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from utils.data.annotated import AnnotatedImages
from utils.data.config import DatasetConfig
from utils.data.scan import Sample
from utils.errors import UserError
from utils.evaluation.annotations import TrueObject, official_annotations, read_annotations

NAMES = {0: "rod", 1: "star"}


@pytest.fixture
def content() -> dict[str, Any]:
    """Two images whose ids and categories are in another order than files and classes; `leaf` is no class."""
    return {
        "images": [
            {"id": 71, "file_name": "a/0.jpg", "width": 60, "height": 40},
            {"id": 5, "file_name": "1.jpg", "width": 40, "height": 60},
            {"id": 6, "file_name": "not evaluated.jpg"},
        ],
        "categories": [{"id": 9, "name": "star"}, {"id": 8, "name": "leaf"}, {"id": 3, "name": "rod"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 9, "bbox": [1, 2, 3.5, 4], "area": 7.25, "iscrowd": 0},
            {"id": 2, "image_id": 5, "category_id": 8, "bbox": [1, 2, 3, 4], "area": 7, "iscrowd": 0},
            {"id": 3, "image_id": 5, "category_id": 3, "bbox": [0, 0, 40, 60], "area": 2000, "iscrowd": 1},
            {"id": 4, "image_id": 6, "category_id": 3, "bbox": "not looked at"},
            {"id": 5, "image_id": 71, "category_id": 3, "bbox": [5, 5, 2, 2]},
        ],
    }


def samples(root: Path) -> list[Sample]:
    shapes = {"images/1.jpg": (60, 40), "images/a/0.jpg": (40, 60)}
    return [Sample(root / name, shape, np.zeros((0, 5), np.float32), []) for name, shape in shapes.items()]


def write(root: Path, content: object, name: str = "instances_images.json") -> Path:
    (root / "annotations").mkdir(exist_ok=True)
    file = root / "annotations" / name
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def dataset(root: Path, *sources: Path | AnnotatedImages) -> DatasetConfig:
    return DatasetConfig(root / "set.yaml", root, (), sources or (root / "images",), (), NAMES)


def test_everything_is_taken_as_it_is(tmp_path: Path, content: dict[str, Any]):
    file = write(tmp_path, content)
    found = official_annotations(dataset(tmp_path), "val", samples(tmp_path))
    one, zero = tmp_path / "images/1.jpg", tmp_path / "images/a/0.jpg"
    assert found is not None
    assert (found.file, found.category_ids, found.image_ids) == (file, [3, 9], {one: 5, zero: 71})
    assert found.objects == {
        one: [TrueObject(1, (1, 2, 3.5, 4), 7.25), TrueObject(0, (0, 0, 40, 60), 2000, crowd=True)],
        zero: [TrueObject(0, (5, 5, 2, 2), 4)],
    }


def test_a_source_that_names_its_annotations(tmp_path: Path, content: dict[str, Any]):
    source = AnnotatedImages(tmp_path / "images", write(tmp_path, content, "x.json"), ("rod", "star"))
    found = official_annotations(dataset(tmp_path, source), "val", samples(tmp_path))
    assert found is not None
    assert list(found.image_ids.values()) == [5, 71]
    content["images"][0]["file_name"] = "0.jpg"  # the folder counts
    write(tmp_path, content, "x.json")
    assert official_annotations(dataset(tmp_path, source), "val", samples(tmp_path)) is None


def test_one_class(tmp_path: Path, content: dict[str, Any]):
    write(tmp_path, content)
    found = official_annotations(dataset(tmp_path), "val", samples(tmp_path), single_cls=True)
    assert found is not None
    assert {true.cls for objects in found.objects.values() for true in objects} == {0}
    assert found.category_ids == [0]


def test_there_are_none(tmp_path: Path, caplog):
    (tmp_path / "xml").mkdir()
    for source in (tmp_path / "images", AnnotatedImages(tmp_path / "images", tmp_path / "xml", ("rod", "star"))):
        assert official_annotations(dataset(tmp_path, source), "val", samples(tmp_path)) is None
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("categories", 0, "name"), "tree", "has no category star"),
        (("categories", 1, "name"), "star", "has two categories of one name"),
        (("images", 1, "file_name"), "2.jpg", "does not know the image "),
        (("images", 1, "file_name"), "b/0.jpg", "has two images of one name"),
        (("images", 1, "id"), 71, "has one entry for two images of one name"),
        (("images", 0, "width"), 120, "0.jpg in 120 x 40 pixels, but it has 60 x 40"),
        (("images", 0, "id"), 1.5, "not a COCO JSON of the object detection task (TypeError('id 1.5'))"),
        (("images",), 3, "not a COCO JSON"),
        (("annotations", 0, "bbox"), [1, 2, 3], "expected a bbox and an area"),
        (("annotations", 0, "bbox"), [1, 2, float("nan"), 3], "expected a bbox and an area"),
        (("annotations", 0, "area"), None, "found the annotation {'area': None, "),
    ],
)
def test_what_does_not_fit_is_not_used(
    tmp_path: Path, content: dict[str, Any], place: tuple[Any, ...], value: object, message: str, caplog
):
    target = content
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    file = write(tmp_path, content)
    assert official_annotations(dataset(tmp_path), "val", samples(tmp_path)) is None
    (line,) = caplog.messages
    assert line.startswith(f"{file}: ")
    assert message in line
    assert line.endswith("; COCO's numbers are taken from the labels instead")


@pytest.mark.parametrize("text", ["", "[]", '{"images": []}', "\xff{", "[" * 100_000])
def test_a_file_that_is_something_else(tmp_path: Path, text: str):
    with pytest.raises(UserError, match="not a COCO JSON of the object detection task"):
        read_annotations(write(tmp_path, text), None, samples(tmp_path), NAMES)


def test_two_images_of_one_name(tmp_path: Path, content: dict[str, Any]):
    twice = [*samples(tmp_path), Sample(tmp_path / "images/b/1.jpg", (60, 40), np.zeros((0, 5), np.float32), [])]
    with pytest.raises(UserError, match="has one entry for two images of one name"):
        read_annotations(write(tmp_path, content), None, twice, NAMES)


def test_several_sources(tmp_path: Path, content: dict[str, Any], caplog):
    write(tmp_path, content)
    sources = tmp_path / "images", tmp_path / "more"
    assert official_annotations(dataset(tmp_path, *sources), "val", samples(tmp_path)) is None
    assert "set.yaml: val has 2 sources, whose ids could be the same; COCO's numbers are taken" in caplog.text
