import numpy as np
import pytest

from utils.data.converters import sku110k
from utils.errors import UserError

ROWS = [
    "train_1.jpg,20,10,60,20,object,100,40",
    "train_0.jpg,0,0,50,20,object,200,80",
    "train_1.jpg,90,30,120,50,object,100,40",
    "train_1.jpg,90,30,90,40,object,100,40",
]


@pytest.fixture
def official(tmp_path, draw):
    folder = tmp_path / "SKU-110K" / "SKU110K_fixed"
    for name in ("train_0", "train_1", "val_0"):
        draw(folder / "images" / f"{name}.jpg", (20, 50))
    (folder / "annotations").mkdir()
    (folder / "annotations/annotations_train.csv").write_bytes("\r\n".join(ROWS).encode() + b"\r\n")
    (folder / "annotations/annotations_val.csv").write_text("val_0.jpg,0,0,50,20,object,50,20\n")
    return folder.parent


def test_labels_and_lists(official, scanned, snapshot):
    sku110k.arrange(official)
    once = snapshot(official)
    assert once["train.txt"] == b"./images/train_0.jpg\n./images/train_1.jpg\n"
    assert once["val.txt"] == b"./images/val_0.jpg\n"
    assert "test.txt" not in once
    assert once["labels/train_1.txt"].decode() == (
        "0 0.400000 0.375000 0.400000 0.250000\n0 0.950000 0.875000 0.100000 0.250000\n"
    )
    train = scanned("SKU-110K", official, "train")
    np.testing.assert_allclose(train["train_0.jpg"], [[0, 0.125, 0.125, 0.25, 0.25]])
    np.testing.assert_allclose(scanned("SKU-110K", official, "val")["val_0.jpg"], [[0, 0.5, 0.5, 1, 1]])
    sku110k.arrange(official)
    assert snapshot(official) == once


def test_linked_files_stay_as_they_are(official, shadow, snapshot):
    (official / "train.txt").write_text("the user's own")
    before, copy = snapshot(official), shadow(official)
    sku110k.arrange(copy)
    assert snapshot(official) == before
    assert (copy / "train.txt").read_text() != "the user's own"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("train_0.jpg,0,0,50,20,object,200", ":5: found 7 columns, expected 8 (image,x1"),
        ("train_0.jpg,0,0,x,20,object,200,80", ":5: found 'x', expected a number"),
        ("train_0.jpg,0,0,5,20,object,0,80", ":5: found an image of 0 x 80 pixels"),
        ("train_0.jpg,0,0,5,20,object,200,81", ":5: found train_0.jpg of 200 x 81 pixels, expected 200 x 80"),
        ("val_0.jpg,0,0,5,20,object,20,50", ": found a size of 20 x 50 for "),
        ("none.jpg,0,0,5,20,object,200,80", ":5: found the image "),
        ("../images/train_0.jpg,0,0,5,20,object,200,80", ":5: found the image "),
    ],
)
def test_bad_rows_are_named(official, row, expected):
    file = official / "SKU110K_fixed/annotations/annotations_train.csv"
    file.write_text("\n".join([*ROWS, row]))
    with pytest.raises(UserError) as caught:
        sku110k.arrange(official)
    assert f"annotations_train.csv{expected}" in str(caught.value)


def test_missing_parts_are_named(official, tmp_path):
    with pytest.raises(UserError, match=r"found no annotations/annotations_train\.csv"):
        sku110k.arrange(tmp_path)
    (official / "images").mkdir()
    with pytest.raises(UserError, match="expected one of the two"):
        sku110k.arrange(official)
