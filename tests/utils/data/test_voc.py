import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from utils.cli import run_command
from utils.data.scan import scan_samples
from utils.data.voc import convert_voc, main
from utils.data.voc_xml import parse_annotation, read_voc_labels
from utils.errors import UserError


def annotation(*objects: str, width="40", height="20") -> str:
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{''.join(objects)}</annotation>"


def item(name: str, box: tuple, difficult: str | None = "0") -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    corners = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    flag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    return f"<object><name>{name}</name>{flag}<bndbox>{corners}</bndbox></object>"


def write(folder: Path, text: str) -> Path:
    file = folder / "a.xml"
    file.write_text(text)
    return file


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "VOC2007"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    contents = {
        "one": annotation(item("dog", (5, 3, 25, 13)), item("cat", (1, 1, 40, 20), "1")),
        "two": annotation(item("bird", (11, 6, 21, 16), None)),
        "three": annotation(),
        "unused": annotation(item("zebra", (1, 1, 9, 9))),
    }
    for name, text in contents.items():
        (root / f"Annotations/{name}.xml").write_text(text)
        (root / f"JPEGImages/{name}.jpg").write_bytes(
            cv2.imencode(".jpg", np.zeros((20, 40, 3), np.uint8))[1].tobytes()
        )
    (root / "ImageSets/Main/train.txt").write_text("one 1\ntwo -1\n\n")
    (root / "ImageSets/Main/val.txt").write_text("three\r\none\n")
    return root


def test_formula_by_hand(tmp_path):
    file = write(tmp_path, annotation(item("b", (5, 3, 25, 13)), item("a", (1, 2, 21, 20), None)))
    assert parse_annotation(file, ["a", "b"]).rows == [
        (1, (15 - 1) / 40, (8 - 1) / 20, 20 / 40, 10 / 20),
        (0, (11 - 1) / 40, (11 - 1) / 20, 20 / 40, 18 / 20),
    ]


def test_boxes_are_cut_at_the_border(tmp_path):
    file = write(tmp_path, annotation(item("a", (0, 0, 41, 21)), item("a", (31, 1, 61, 11))))
    whole, part = parse_annotation(file, ["a"]).rows
    np.testing.assert_allclose(whole, (0, 0.5, 0.5, 1, 1))
    np.testing.assert_allclose(part, (0, 35 / 40, 5 / 20, 10 / 40, 10 / 20))


def test_difficult_and_empty_boxes_are_left_out(tmp_path):
    file = write(
        tmp_path, annotation(item("a", (1, 1, 9, 9), "1"), item("b", (7, 5, 7, 9)), item("a", (1, 1, 9, 9), " 0 "))
    )
    parsed = parse_annotation(file, ["a", "b"])
    assert len(parsed.rows) == 1
    assert parsed.size == (20, 40)
    assert "left out a b without area" in parsed.warnings[0]


def test_labels_have_each_object_once(tmp_path):
    file = write(tmp_path, annotation(item("b", (5, 3, 25, 13)), item("b", (5, 3, 25, 13)), item("a", (5, 3, 25, 13))))
    labels = read_voc_labels(file, ["a", "b"])
    np.testing.assert_allclose(
        labels.boxes, [[1, 14 / 40, 7 / 20, 0.5, 0.5], [0, 14 / 40, 7 / 20, 0.5, 0.5]], rtol=1e-6
    )
    assert labels.polygons == [None, None]
    assert labels.warnings == [f"{file}: duplicate left out"]
    assert read_voc_labels(write(tmp_path, annotation()), ["a"]).boxes.shape == (0, 5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (annotation(item("cat", (1, 1, 9, 9))), "found the class 'cat', expected one of a, b"),
        (annotation(item("a", (9, 1, 1, 9))), "x 9..1"),
        (annotation(item("a", (50, 1, 60, 9))), "x 50..60"),
        (annotation(item("a", ("x", 1, 9, 9))), "found 'x' in <bndbox/xmin>"),
        (annotation(item("a", ("nan", 1, 9, 9))), "found 'nan'"),
        (annotation("<object><name>a</name></object>"), "found None in <bndbox/xmin>"),
        (annotation("<object/>"), "without a name"),
        (annotation(width="0"), "0 x 20"),
        ("<annotation/>", "found None in <size/width>"),
        ("<annotation>\n<size>", "a.xml:2: not valid XML"),
        ("", "not valid XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "DOCTYPE"),
    ],
)
def test_mistakes_are_named(tmp_path, text, expected):
    file = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        parse_annotation(file, ["a", "b"])
    assert str(file) in str(caught.value)
    assert expected in str(caught.value)


def test_document_types_are_refused_in_any_encoding(tmp_path):
    file = tmp_path / "a.xml"
    file.write_bytes('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'.encode("utf-16"))
    with pytest.raises(UserError, match="DOCTYPE"):
        parse_annotation(file, [])


def test_convert(voc, tmp_path):
    before = {p: p.read_bytes() for p in voc.rglob("*") if p.is_file()}
    file = convert_voc(voc, tmp_path / "out")
    assert yaml.safe_load(file.read_text()) == {
        "path": str(tmp_path / "out"),
        "train": "images/train",
        "val": "images/val",
        "names": {0: "bird", 1: "dog"},  # the cat is difficult, the zebra in no list
    }
    samples = scan_samples((tmp_path / "out/images/train",), 2)
    assert [s.path.stem for s in samples] == ["one", "two"]
    np.testing.assert_allclose(samples[0].labels, [[1, 14 / 40, 7 / 20, 0.5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(samples[1].labels, [[0, 15 / 40, 10 / 20, 0.25, 0.5]], rtol=1e-6)
    assert (tmp_path / "out/labels/val/three.txt").read_text() == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["VOC2007", "out"]
    assert {p: p.read_bytes() for p in voc.rglob("*") if p.is_file()} == before


def test_classes_may_be_given(voc, tmp_path):
    convert_voc(voc, tmp_path / "out", ("train",), ["dog", "bird"])
    assert (tmp_path / "out/labels/train/one.txt").read_text().startswith("0 ")
    with pytest.raises(UserError, match="'bird'"):
        convert_voc(voc, tmp_path / "out2", ("train",), ["dog"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["VOC2007", "out"]


def test_nothing_is_overwritten_and_nothing_left_behind(voc, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists already"):
        convert_voc(voc, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(UserError, match="found none of"):
        convert_voc(tmp_path / "out", tmp_path / "new")
    (voc / "JPEGImages/two.jpg").unlink()
    with pytest.raises(UserError, match=r"two\.jpg: no such image"):
        convert_voc(voc, tmp_path / "new")
    (voc / "Annotations/one.xml").unlink()
    with pytest.raises(UserError, match=r"one\.xml: no such annotation"):
        convert_voc(voc, tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["VOC2007", "out"]


def test_objects_that_stand_twice_are_written_once(voc, tmp_path, caplog):
    file = voc / "Annotations/two.xml"
    file.write_text(annotation(*[item("bird", (11, 6, 21, 16))] * 3))
    convert_voc(voc, tmp_path / "out")
    assert len((tmp_path / "out/labels/train/two.txt").read_text().splitlines()) == 1
    assert f"{file}: left out 2 objects that repeat another" in caplog.messages


def test_the_size_of_another_image_is_refused(voc, tmp_path):
    (voc / "Annotations/three.xml").write_text(annotation(width="20", height="40"))
    with pytest.raises(UserError, match=r"three\.xml: found a size of 20 x 40 for .*three\.jpg, expected 40 x 20"):
        convert_voc(voc, tmp_path / "out")
    (voc / "Annotations/three.xml").write_text(annotation(width="81", height="40"))  # before it was resized
    convert_voc(voc, tmp_path / "out")


def test_command(voc, tmp_path):
    command = [sys.executable, "-m", "utils.data.voc", str(voc), str(tmp_path / "out")]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0
    assert "data.yaml" in done.stdout
    again = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert again.returncode == 1
    assert again.stderr.startswith("error: ")
    assert "Traceback" not in again.stderr


def test_converted_images_are_copies(voc, tmp_path):
    convert_voc(voc, tmp_path / "out")
    images = [path for path in (tmp_path / "out/images").rglob("*") if path.is_file()]
    assert images
    assert all(path.stat().st_nlink == 1 for path in images)


def test_blood_cells(shared, tmp_path):
    file = convert_voc(shared / "data" / "bccd", tmp_path / "out")
    assert list(yaml.safe_load(file.read_text())["names"].values()) == ["Platelets", "RBC", "WBC"]
    for split, counts in {"train": (205, 2804), "val": (87, 1137), "test": (72, 945)}.items():
        labels = list((tmp_path / "out" / "labels" / split).iterdir())
        assert (len(labels), sum(len(label.read_text().splitlines()) for label in labels)) == counts


def test_a_wrong_command_line_is_a_mistake_like_any_other(capsys):
    assert run_command(lambda: main([])) == 1
    assert "error: python -m utils.data.voc: the following arguments are required" in capsys.readouterr().err
