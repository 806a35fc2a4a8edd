import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from utils.data.converters import visdrone
from utils.errors import UserError

H, W = 40, 100
TRAIN, VAL = "VisDrone2019-DET-train", "VisDrone2019-DET-val"


@pytest.fixture
def official(tmp_path, draw):
    """Makes a split of images that have these annotations, stem -> bytes."""

    def make(split=TRAIN, **texts):
        for stem, text in texts.items():
            draw(tmp_path / "VisDrone" / split / "images" / f"{stem}.jpg", (H, W))
            file = tmp_path / "VisDrone" / split / "annotations" / f"{stem}.txt"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(text)
        return tmp_path / "VisDrone"

    return make


def labels(folder, stem="a", split=TRAIN):
    return (folder / split / "labels" / f"{stem}.txt").read_text()


def test_rows_by_hand(official):
    folder = official(a=b"10,4,20,8,1,1,0,0\n50,30,25,5,1,10,1,2\n")
    visdrone.arrange(folder)
    assert labels(folder) == "0 0.200000 0.200000 0.200000 0.200000\n9 0.625000 0.812500 0.250000 0.125000\n"


def test_what_is_no_object_is_left_out_whatever_its_score(official):
    rows = [
        b"1,1,9,9,1,0,0,0",  # ignored region though it has a score
        b"1,1,9,9,1,11,0,0",  # others, same
        b"1,1,9,9,0,0,0,0",
        b"1,1,9,9,0,11,0,0",
        b"1,1,9,9,0,4,0,0",  # a car of score 0
        b"10,10,0,5,1,4,0,0",  # no width
        b"10,10,5,0,1,4,0,0",
        b"100,0,9,9,1,4,0,0",  # outside
        b"0,0,50,20,1,4,1,2",
    ]
    folder = official(a=b"\n".join(rows))
    visdrone.arrange(folder)
    assert labels(folder) == "3 0.250000 0.250000 0.500000 0.500000\n"


def test_forms_of_official_files(official):
    row = b"10,4,20,8,1,1,0,0"
    expected = "0 0.200000 0.200000 0.200000 0.200000\n"
    folder = official(
        comma=row + b",\n", crlf=row + b",\r\n\r\n", bom=b"\xef\xbb\xbf" + row, twice=row + b"\n" + row, empty=b""
    )
    visdrone.arrange(folder)
    assert [labels(folder, stem) for stem in ("comma", "crlf", "bom", "twice", "empty")] == [expected] * 4 + [""]


def test_boxes_are_cut_at_the_border(official):
    folder = official(a=b"-10,-4,20,8,1,2,0,0\n90,30,20,20,1,2,0,0\n")
    visdrone.arrange(folder)
    assert labels(folder) == "1 0.050000 0.050000 0.100000 0.100000\n1 0.950000 0.875000 0.100000 0.250000\n"


def test_an_upright_image_counts_not_its_header(official):
    folder = official(a=b"10,4,20,8,1,1,0,0\n")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (W, H)).save(folder / TRAIN / "images/a.jpg", exif=exif)
    visdrone.arrange(folder)
    assert labels(folder) == "0 0.500000 0.080000 0.500000 0.080000\n"


def test_only_the_splits_that_are_there(official, scanned):
    folder = official(a=b"10,4,20,8,1,1,0,0\n", b=b"")
    official(VAL, c=b"0,0,50,20,1,4,0,0\n")
    (folder / "notes").mkdir()
    visdrone.arrange(folder)
    train = scanned("VisDrone", folder, "train")
    np.testing.assert_allclose(train["a.jpg"], [[0, 0.2, 0.2, 0.2, 0.2]], rtol=1e-6)
    assert len(train["b.jpg"]) == 0
    np.testing.assert_allclose(scanned("VisDrone", folder, "val")["c.jpg"], [[3, 0.25, 0.25, 0.5, 0.5]], rtol=1e-6)
    assert not (folder / "VisDrone2019-DET-test-dev").exists()
    assert not list((folder / "notes").iterdir())


def test_linked_files_stay_as_they_are_and_twice_gives_the_same(official, shadow, snapshot):
    folder = official(a=b"10,4,20,8,1,1,0,0\n")
    (folder / TRAIN / "labels").mkdir()
    (folder / TRAIN / "labels/a.txt").write_text("the user's own")
    (folder / TRAIN / "labels/old.txt").write_text("the user's own")
    before, copy = snapshot(folder), shadow(folder)
    visdrone.arrange(copy)
    once = snapshot(copy)
    visdrone.arrange(copy)
    assert snapshot(copy) == once
    assert snapshot(folder) == before
    assert sorted(p.name for p in (copy / TRAIN / "labels").iterdir()) == ["a.txt"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (b"1,1,9,9,1,1,0", "found 7 columns, expected 8 (left,top,width,height,score,category,truncation,occlusion)"),
        (b"1,1,9,9,1,1,0,0,0", "found 9 columns"),
        (b"1 1 9 9 1 1 0 0", "found 1 column, expected 8"),
        (b"1,1,x,9,1,1,0,0", "found 'x', expected a number"),
        (b"1,1,nan,9,1,1,0,0", "found 'nan', expected a number"),
        (b"1,1,1_0,9,1,1,0,0", "found '1_0', expected a number"),
        (b"1,1,9,,1,1,0,0", "found '', expected a number"),
        (b"1,1,-9,9,1,1,0,0", "found an object of -9 x 9 pixels"),
        (b"1,1,9,9,1,12,0,0", "found category 12, expected one of 0..11"),
        (b"1,1,9,9,0,-1,0,0", "found category -1"),
        (b"1,1,9,9,1,1.5,0,0", "found category 1.5"),
    ],
)
def test_bad_rows_are_named(official, row, expected):
    folder = official(a=b"1,1,9,9,1,1,0,0\n\n" + row + b"\n")
    with pytest.raises(UserError) as caught:
        visdrone.arrange(folder)
    assert str(caught.value).startswith(f"{folder / TRAIN / 'annotations/a.txt'}:3: found ")
    assert expected in str(caught.value)


def test_missing_parts_are_named(official, tmp_path):
    with pytest.raises(UserError, match="found none of VisDrone2019-DET-train, "):
        visdrone.arrange(tmp_path)
    folder = official(a=b"", b=b"", c=b"")
    (folder / TRAIN / "images/b.jpg").unlink()
    with pytest.raises(UserError, match=r"annotations/b\.txt: found no image"):
        visdrone.arrange(folder)
    (folder / TRAIN / "annotations/b.txt").unlink()
    (folder / TRAIN / "annotations/c.txt").unlink()
    with pytest.raises(UserError, match=r"images/c\.jpg: found no annotation"):
        visdrone.arrange(folder)
    (folder / TRAIN / "images/c.jpg").write_bytes(b"no picture")
    (folder / TRAIN / "annotations/c.txt").touch()
    with pytest.raises(UserError, match=r"images/c\.jpg: cannot read the size"):
        visdrone.arrange(folder)
    for file in (folder / TRAIN / "annotations").iterdir():
        file.unlink()
    (folder / TRAIN / "annotations").rmdir()
    with pytest.raises(UserError, match="annotations: no such folder"):
        visdrone.arrange(folder)


def test_hidden_files_of_a_system_are_no_part_of_it(official):
    folder = official(a=b"")
    for name in ("images/._a.jpg", "annotations/._a.txt", "images/Thumbs.db"):
        (folder / TRAIN / name).write_bytes(b"x")
    visdrone.arrange(folder)
    assert [p.name for p in (folder / TRAIN / "labels").iterdir()] == ["a.txt"]


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.integers(0, W - 2), st.integers(0, H - 2), st.integers(1, W), st.integers(1, H), st.integers(1, 10)
        ),
        unique=True,
        max_size=6,
    )
)
def test_boxes_come_back(tmp_path_factory, boxes):
    folder = tmp_path_factory.mktemp("VisDrone")
    for part in ("images", "annotations"):
        (folder / TRAIN / part).mkdir(parents=True)
    Image.new("L", (W, H)).save(folder / TRAIN / "images/a.png")
    text = "".join(f"{x},{y},{w},{h},1,{category},0,0\n" for x, y, w, h, category in boxes)
    (folder / TRAIN / "annotations/a.txt").write_text(text)
    visdrone.arrange(folder)
    rows = np.array([row.split() for row in labels(folder).splitlines()], float).reshape(-1, 5)
    corners = np.c_[rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2] * [W, H, W, H]
    expected = {(c - 1, x, y, min(x + w, W), min(y + h, H)): None for x, y, w, h, c in boxes}  # each once
    np.testing.assert_allclose(np.c_[rows[:, 0], corners], np.array(list(expected)).reshape(-1, 5), atol=2e-4)
