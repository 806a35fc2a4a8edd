import numpy as np
import pytest

from utils.data.converters.voc import arrange
from utils.errors import UserError

BOX = "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"


def annotation(*objects: tuple) -> str:
    rows = "".join(
        f"<object><name>{name}</name>{extra}<bndbox>{BOX.format(*box)}</bndbox></object>"
        for name, extra, box in objects
    )
    return f"<annotation><size><width>60</width><height>30</height></size>{rows}</annotation>"


@pytest.fixture
def devkit(tmp_path, draw):
    """Some images of the 2007 test set."""

    def make(**annotations):
        year = tmp_path / "official" / "VOCdevkit" / "VOC2007"
        for name, text in annotations.items():
            draw(year / "JPEGImages" / f"{name}.jpg", (30, 60))
            (year / "Annotations").mkdir(exist_ok=True)
            (year / "Annotations" / f"{name}.xml").write_text(text)
        (year / "ImageSets/Main").mkdir(parents=True)
        (year / "ImageSets/Main/test.txt").write_text("\n".join(annotations))
        return tmp_path / "official"

    return make


def test_arrange(devkit, scanned):
    difficult, easy = "<difficult>1</difficult>", "<difficult>0</difficult>"
    head = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    folder = devkit(
        a=annotation(
            ("person", head + easy, (7, 4, 19, 13)), ("cat", difficult, (1, 1, 9, 9)), ("tvmonitor", "", (1, 1, 61, 31))
        ),
        b=annotation(),
    )
    arrange(folder)
    labels = scanned("VOC", folder, "val")
    expected = [[14, 12 / 60, 7.5 / 30, 12 / 60, 9 / 30], [19, 0.5, 0.5, 1, 1]]
    np.testing.assert_allclose(labels["a.jpg"], expected, rtol=1e-6)
    assert (folder / "labels/test2007/b.txt").read_text() == ""
    assert sorted(path.name for path in folder.iterdir()) == ["images", "labels"]


def test_files_that_are_linked_elsewhere_stay(devkit, shadow, snapshot):
    folder = devkit(a=annotation(("dog", "", (1, 1, 9, 9))))
    before = snapshot(folder)
    arrange(shadow(folder))
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (annotation(("zebra", "", (1, 1, 9, 9))), "found the class 'zebra'"),
        (annotation(("dog", "", (9, 1, 1, 9))), "found a dog at x 9..1"),
        ("<annotation>", "not valid XML"),
    ],
)
def test_bad_annotations_are_named(devkit, text, message):
    with pytest.raises(UserError, match=rf"a\.xml.*{message}"):
        arrange(devkit(a=text))
