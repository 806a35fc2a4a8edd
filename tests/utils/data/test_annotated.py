import json
import logging
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

import utils.data.scan
from utils.data.annotated import AnnotatedImages
from utils.data.scan import scan_samples
from utils.errors import UserError

NAMES = ("cat", "dog")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(utils.data.scan, "CACHE_FOLDER", tmp_path_factory.mktemp("cache"))


def add_image(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(cv2.imencode(file.suffix, np.full((20, 40, 3), 99, np.uint8))[1].tobytes())
    return file


def xml(*objects: tuple, width=40, height=20) -> str:
    tags = ("xmin", "ymin", "xmax", "ymax")
    items = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
        + "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, box, strict=True))
        + "</bndbox></object>"
        for name, box, difficult in objects
    )
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{items}</annotation>"


@pytest.fixture
def coco(tmp_path) -> AnnotatedImages:
    for name in ("b.png", "a.png", "not in the file.png"):
        add_image(tmp_path / "images" / name)
    write_json(tmp_path, [10, 5, 20, 10])
    return AnnotatedImages(tmp_path / "images", tmp_path / "set.json", NAMES)


def write_json(folder: Path, bbox: list, names=NAMES, size=(20, 40)) -> None:
    polygon = [[10, 5, 30, 5, 30, 15]]
    content = {
        "images": [
            {"id": i, "file_name": name, "height": size[0], "width": size[1]}
            for i, name in enumerate(("b.png", "a.png"))
        ],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 5, "bbox": bbox, "segmentation": polygon}],
        "categories": [{"id": 5 - i, "name": name} for i, name in enumerate(reversed(names))],
    }
    (folder / "set.json").write_text(json.dumps(content))


@pytest.fixture
def voc(tmp_path) -> AnnotatedImages:
    contents = {
        "one": xml(("dog", (5, 3, 25, 13), 0), ("cat", (1, 1, 9, 9), 1)),
        "two": xml(),
        "sub/one": xml(("cat", (1, 1, 41, 21), 0)),
    }
    for name, text in contents.items():
        add_image(tmp_path / "JPEGImages" / f"{name}.jpg")
        file = tmp_path / "Annotations" / f"{name}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return AnnotatedImages(tmp_path / "JPEGImages", tmp_path / "Annotations", NAMES)


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in root.rglob("*") if p.is_file()}


def test_coco_samples(coco, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    before = snapshot(tmp_path)
    for _ in range(2):  # the second time from the cache
        background, sample = scan_samples((coco,), 2)
        assert (background.path.name, background.labels.shape, background.polygons) == ("a.png", (0, 5), [])
        assert (sample.path.name, sample.shape) == ("b.png", (20, 40))
        np.testing.assert_array_equal(sample.labels, [[1, 0.5, 0.5, 0.5, 0.5]])
        np.testing.assert_array_equal(sample.polygons[0], [[0.25, 0.25], [0.75, 0.25], [0.75, 0.75]])
    assert snapshot(tmp_path) == before
    assert f"{coco.images} ({coco.annotations}): 2 images, 1 of them backgrounds, 1 objects" in caplog.text


def test_coco_changes_are_noticed(coco, tmp_path, monkeypatch):
    scan_samples((coco,), 2)
    stat = coco.annotations.stat()
    write_json(tmp_path, [12, 5, 20, 10])  # same size
    os.utime(coco.annotations, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert scan_samples((coco,), 2)[1].labels[0, 1] == np.float32(0.55)
    turned = AnnotatedImages(coco.images, coco.annotations, ("dog", "cat"))
    assert scan_samples((turned,), 2)[1].labels[0, 0] == 0
    monkeypatch.setattr(utils.data.scan, "_scan", lambda *_: pytest.fail("scanned again"))
    scan_samples((coco,), 2)


def test_voc_samples(voc, tmp_path):
    before = snapshot(tmp_path)
    one, other, two = scan_samples((voc,), 2)
    assert [str(s.path.relative_to(voc.images)) for s in (one, other, two)] == ["one.jpg", "sub/one.jpg", "two.jpg"]
    np.testing.assert_allclose(one.labels, [[1, 14 / 40, 7 / 20, 0.5, 0.5]], rtol=1e-6)  # the cat is difficult
    np.testing.assert_allclose(other.labels, [[0, 0.5, 0.5, 1, 1]], rtol=1e-6)
    assert (one.polygons, two.labels.shape) == ([None], (0, 5))
    assert snapshot(tmp_path) == before
    (voc.annotations / "two.xml").write_text(xml(("cat", (1, 1, 9, 9), 0)))
    assert len(scan_samples((voc,), 2)[2].labels) == 1


def test_voc_list(voc, tmp_path):
    (tmp_path / "val.txt").write_text("two 1\nsub/one -1\n")
    (voc.annotations / "one.xml").unlink()
    source = AnnotatedImages(voc.images, voc.annotations, NAMES, tmp_path / "val.txt")
    assert [s.path.stem for s in scan_samples((source,), 2)] == ["one", "two"]
    (tmp_path / "val.txt").write_text("two\nthree\n")
    with pytest.raises(UserError, match=r"val\.txt: found no image .*three\.jpg"):
        scan_samples((source,), 2)


def test_two_images_cannot_share_an_xml(voc):
    add_image(voc.images / "one.png")
    with pytest.raises(UserError, match=r"one\.png: .*one\.jpg has the same name"):
        scan_samples((voc,), 2)


def test_voc_problems_are_all_told(voc, caplog):
    (voc.annotations / "one.xml").unlink()
    (voc.annotations / "two.xml").write_text(xml(("cow", (1, 1, 9, 9), 0)))
    with pytest.raises(UserError, match=r"one\.xml: no such annotation.*\(and 1 more problems; 2 images"):
        scan_samples((voc,), 2)
    assert "found the class 'cow', expected one of cat, dog" in caplog.text


def test_coco_problems_name_the_annotation(coco, tmp_path):
    write_json(tmp_path, [1, 2, 3])
    with pytest.raises(UserError, match=r"set\.json: found the bbox \[1, 2, 3\] in annotation 1, expected left, top"):
        scan_samples((coco,), 2)


@pytest.mark.parametrize(("size", "fits"), [((20, 40), True), ((201, 400), True), ((40, 20), False), ((20, 46), False)])
def test_annotations_of_an_image_of_other_proportions_are_refused(coco, tmp_path, size, fits):
    write_json(tmp_path, [1, 2, 3, 4], size=size)
    if fits:
        assert len(scan_samples((coco,), 2)) == 2
    else:
        with pytest.raises(UserError, match=rf"found a size of {size[1]} x {size[0]} .*a\.png, expected 40 x 20"):
            scan_samples((coco,), 2)


def test_kinds_may_be_mixed_but_an_image_has_one_origin(coco, voc, tmp_path):
    add_image(tmp_path / "set/images/x.png")
    (tmp_path / "set/labels").mkdir()
    (tmp_path / "set/labels/x.txt").write_text("1 0.5 0.5 0.2 0.2\n")
    assert len(scan_samples((coco, voc, tmp_path / "set/images", coco), 2)) == 2 + 3 + 1
    with pytest.raises(UserError, match=r"a\.png: found objects of it in .*set\.json and in .*labels/a\.txt"):
        scan_samples((coco, tmp_path / "images"), 2)


def test_wrong_places(coco, tmp_path):
    (tmp_path / "list.txt").touch()
    with pytest.raises(UserError, match=r"list\.txt: .* lists its images itself; remove `list`"):
        scan_samples((AnnotatedImages(coco.images, coco.annotations, NAMES, tmp_path / "list.txt"),), 2)
    with pytest.raises(UserError, match=r"list\.txt: expected a folder of images"):
        scan_samples((AnnotatedImages(tmp_path / "list.txt", coco.annotations, NAMES),), 2)


def test_no_objects_at_all(coco, tmp_path):
    write_json(tmp_path, [1, 1, 0, 0])
    with pytest.raises(UserError, match=rf"found no labels for 2 images, expected for example in {coco.annotations}"):
        scan_samples((coco,), 2)
    assert len(scan_samples((coco,), 2, require_labels=False)) == 2
