"""Defects in COCO JSON and Pascal VOC XML."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from utils.data.config import load_dataset_config
from utils.data.lint.__main__ import lint
from utils.data.scan import scan_samples
from utils.errors import UserError

OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def draw(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    cv2.imwrite(str(file), cv2.resize(pixels, (80, 60)))


def write_config(root: Path, **source: str) -> Path:
    file = root / "data.yaml"
    file.write_text(yaml.safe_dump({"path": str(root), "train": source, "val": source, "names": ["cat", "dog"]}))
    return file


def problems(root: Path, **options) -> list[dict[str, str]]:
    lint(str(root / "data.yaml"), project=str(root / "runs"), name="exp", **options)
    with max((root / "runs").iterdir(), key=lambda path: len(path.name)).joinpath("problems.csv").open() as stream:
        return [row for row in csv.DictReader(stream) if row["kind"] != "shared source"]


@pytest.fixture
def coco(tmp_path):
    root = tmp_path / "set"
    for number in range(2):
        draw(root / f"pictures/{number}.png", number)
    images = [{"id": n, "file_name": f"{n}.png", "width": 80, "height": 60} for n in range(2)]
    annotations = [
        {"id": 7 + n, "image_id": n, "category_id": 3 + n, "bbox": [10, 10, 20 + 10 * n, 30]} for n in range(2)
    ]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}],
    }
    write_config(root, images="pictures", annotations="all.json")
    return root, content


def test_coco(coco):
    root, content = coco
    (root / "all.json").write_text(json.dumps(content))
    assert problems(root) == []

    expected = {
        20: ([30, 30, 0, 10], "no area"),
        21: ([70, 30, 30, 10], "box over the border"),
        22: ([10, 10, 20, 30], "duplicate row"),
        23: ([90, 10, 20, 30], "coordinate outside"),
        24: ([10, 10, -20, 30], "bad annotation"),
    }
    for key, (box, _) in expected.items():
        content["annotations"].append({"id": key, "image_id": 0, "category_id": 3, "bbox": box})
    content["annotations"].append({"id": 25, "image_id": 0, "category_id": 9, "bbox": [1, 2, 30, 30]})
    (root / "all.json").write_text(json.dumps(content))
    rows = problems(root, fix=root.with_name("fixed"))
    found = {(row["kind"], row["file"]) for row in rows}
    assert found == {
        (kind, str(root / "all.json")) for kind in [kind for _, kind in expected.values()] + ["class out of range"]
    }
    for key, (_, kind) in expected.items():
        assert any(f"annotation {key}" in row["found"] and row["kind"] == kind for row in rows)

    config = load_dataset_config(str(root.with_name("fixed") / "data.yaml"))
    samples = scan_samples(config.sources("train"), config.nc)
    np.testing.assert_allclose(
        samples[0].labels, [[0, 20 / 80, 25 / 60, 0.25, 0.5], [0, 75 / 80, 35 / 60, 10 / 80, 10 / 60]], atol=1e-6
    )
    np.testing.assert_allclose(samples[1].labels, [[1, 25 / 80, 25 / 60, 30 / 80, 0.5]], atol=1e-6)


@pytest.mark.parametrize("inside", ["pictures/fixed", "notes/fixed"])
def test_fix_beside_images_or_annotations_that_are_elsewhere_is_refused(coco, tmp_path, inside):
    root, content = coco
    away = tmp_path / "away"
    root.rename(away)
    (away / "notes").mkdir()
    (away / "notes/all.json").write_text(json.dumps(content))
    root.mkdir()
    file = write_config(root, images=str(away / "pictures"), annotations=str(away / "notes/all.json"))
    with pytest.raises(UserError, match=f"{inside}: lies in .* of the data set"):
        lint(str(file), project=str(root / "runs"), fix=away / inside)
    assert not (away / inside).exists()
    assert not (root / "runs").exists()


def test_boxes_of_a_json_are_named_by_image_and_place(coco):
    root, content = coco
    content["annotations"].append({"id": 9, "image_id": 1, "category_id": 3, "bbox": [40, 20, 2, 30]})
    (root / "all.json").write_text(json.dumps(content))
    (row,) = problems(root)
    assert (row["kind"], row["file"], row["line"]) == ("tiny box", str(root / "all.json"), "")
    assert row["found"].startswith("a cat of 2 x 30 pixels around 41, 35 in 1.png, ")


def test_size_of_another_image(coco):
    root, content = coco
    content["images"][1].update(width=60, height=80)
    content["annotations"][1]["bbox"] = [10, 10, 30, 30]
    (root / "all.json").write_text(json.dumps(content))
    (row,) = problems(root)
    assert row["kind"] == "size of another image"
    assert "60 x 80 for 1.png" in row["found"]


@pytest.mark.parametrize("content", ["{", '{"images": []}', "[1]"])
def test_a_json_that_is_none(coco, content):
    root, _ = coco
    (root / "all.json").write_text(content)
    rows = problems(root)
    assert {(row["kind"], row["file"]) for row in rows} == {("bad source", str(root / "all.json"))}
    assert {row["line"] for row in rows} == ({"1"} if content == "{" else {""})


def test_voc(tmp_path):
    root = tmp_path / "set"
    objects = {
        "good": [("cat", 10, 10, 30, 40), ("dog", 40, 10, 70, 50)],
        "flat": [("cat", 20, 20, 20, 20), ("dog", 40, 10, 70, 50)],
        "twice": [("cat", 10, 10, 30, 40), ("cat", 10, 10, 30, 40)],
        "cow": [("cow", 10, 10, 30, 40)],
        "outside": [("cat", 100, 10, 130, 40)],
        "broken": [],
    }
    (root / "xml").mkdir(parents=True)
    for seed, (name, entries) in enumerate(objects.items()):
        draw(root / f"jpg/{name}.png", seed)
        text = "".join(OBJECT.format(*entry) for entry in entries)
        size = "<size>\n<width>80</width><height>60</height></size>"
        end = "" if name == "broken" else "</annotation>"
        (root / f"xml/{name}.xml").write_text(f"<annotation>{size}{text}{end}")
    draw(root / "jpg/lonely.png", 99)
    write_config(root, images="jpg", annotations="xml")
    rows = problems(root, fix=tmp_path / "fixed")
    assert {(row["kind"], Path(row["file"]).name, row["line"]) for row in rows} == {
        ("no area", "flat.xml", ""),
        ("duplicate row", "twice.xml", ""),
        ("unreadable labels", "cow.xml", ""),
        ("unreadable labels", "outside.xml", ""),
        ("unreadable labels", "broken.xml", "2"),
        ("unreadable labels", "lonely.xml", ""),
    }
    kept = {path.name for path in (tmp_path / "fixed/images/train").iterdir()}
    assert kept == {"good.png", "flat.png", "twice.png"}


def test_real_blood_cells(shared, tmp_path):
    source = {"images": "JPEGImages", "annotations": "Annotations"}
    splits = {name: {**source, "list": f"ImageSets/Main/{name}.txt"} for name in ("train", "val", "test")}
    names = ["RBC", "WBC", "Platelets"]
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"path": str(shared / "data/bccd"), **splits, "names": names}))
    rows = problems(tmp_path)
    assert [(row["kind"], Path(row["file"]).name) for row in rows] == [
        ("no area", "BloodImage_00338.xml"),
        ("no area", "BloodImage_00343.xml"),
    ]
