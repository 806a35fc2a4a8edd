from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.labels import label_path_of, read_labels


def read(tmp_path, text, nc=3):
    file = tmp_path / "a.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_labels(file, nc)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/d/images/train/a.jpg", "/d/labels/train/a.txt"),
        ("/images/d/images/a.b.png", "/images/d/labels/a.b.txt"),
        ("/d/images.old/a.jpg", "/d/images.old/a.txt"),
        ("/d/pictures/images.jpg", "/d/pictures/images.txt"),
        ("images/a.jpg", "labels/a.txt"),
        ("a.jpg", "a.txt"),
    ],
)
def test_label_path(image, label):
    assert label_path_of(Path(image)) == Path(label)


def test_boxes_and_polygons_are_told_apart_row_by_row(tmp_path):
    labels = read(tmp_path, "1 0.5 0.5 0.2 0.2\n2 0.1 0.2 0.5 0.2 0.3 0.8\n0 0.25 0.75 0.5 0.125\n")
    expected = [[1, 0.5, 0.5, 0.2, 0.2], [2, 0.3, 0.5, 0.4, 0.6], [0, 0.25, 0.75, 0.5, 0.125]]
    np.testing.assert_allclose(labels.boxes, expected, rtol=1e-6)
    assert labels.boxes.dtype == np.float32
    assert labels.polygons[0] is None
    assert labels.polygons[2] is None
    np.testing.assert_allclose(labels.polygons[1], [[0.1, 0.2], [0.5, 0.2], [0.3, 0.8]], rtol=1e-6)
    assert not labels.warnings
    assert not labels.problems


@pytest.mark.parametrize("text", [b"", b"\n", b" \r\n\t\n", b"\xef\xbb\xbf"])
def test_nothing_is_background(tmp_path, text):
    labels = read(tmp_path, text)
    assert labels.boxes.shape == (0, 5)
    assert labels.boxes.dtype == np.float32
    assert labels.polygons == labels.problems == labels.warnings == []


def test_missing_file_is_background(tmp_path):
    assert not len(read_labels(tmp_path / "none.txt", 3).boxes)
    assert not read_labels(tmp_path / "none.txt", 3).problems


def test_a_link_to_nothing_is_a_problem(tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "unmounted" / "a.txt")
    (problem,) = read_labels(tmp_path / "a.txt", 3).problems
    assert "unmounted/a.txt, which is not there" in str(problem)


def test_a_folder_in_place_of_the_file_is_a_problem(tmp_path):
    assert "unreadable" in str(read_labels(tmp_path, 3).problems[0])


@pytest.mark.parametrize(
    "content",
    [
        *("0 0.5 0.5 0.2 0.2\n".encode(code) for code in ("utf-16", "utf-16-le", "utf-16-be", "utf-32")),
        b"\xfe\xff",
        b"0 0.5 0.5 0.2 0.2\n\0\0\0\0\0",
    ],
)
def test_a_file_that_is_not_utf8_is_one_problem_of_the_whole_file(tmp_path, content):
    labels = read(tmp_path, content)
    assert labels.boxes.shape == (0, 5)
    assert [str(problem) for problem in labels.problems] == [
        f"{tmp_path / 'a.txt'}: found UTF-16 or a damaged file, expected a text file in UTF-8; save it as UTF-8"
    ]


def test_marks_tabs_and_line_ends(tmp_path):
    labels = read(tmp_path, b"\xef\xbb\xbf0\t0.5 0.5\t 0.2 0.1\r\n\r\n   \n1 5e-1 .5 0.2 1.0")
    np.testing.assert_allclose(labels.boxes, [[0, 0.5, 0.5, 0.2, 0.1], [1, 0.5, 0.5, 0.2, 1]], rtol=1e-6)


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("0", "1 column,"),
        ("0 0.5 0.5 0.2", "4 columns,"),
        ("0 0.5 0.5 0.2 0.2 0.9", "6 columns,"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "8 columns,"),
        ("0,0.5,0.5,0.2,0.2", "1 column,"),
        ("cat 0.5 0.5 0.2 0.2", "'cat', expected the number of a class; write its place in `names`"),
        ("0 0,5 0.5 0.2 0.2", "'0,5'"),
        ("0 0_5 0.5 0.2 0.2", "'0_5'"),
        ("0 nan 0.5 0.2 0.2", "'nan'"),
        ("inf 0.5 0.5 0.2 0.2", "'inf'"),
        ("-1 0.5 0.5 0.2 0.2", "class -1"),
        ("0.5 0.5 0.5 0.2 0.2", "class 0.5"),
        ("3 0.5 0.5 0.2 0.2", "class 3"),
        ("0 1.0011 0.5 0.2 0.2", "1.0011"),
        ("0 0.5 0.5 -0.2 0.2", "-0.2, expected fractions of the image width and height in [0, 1]; cut the object"),
        ("0 320 200 50 40", "320, expected fractions of the image width and height in [0, 1]; divide pixels"),
        ("0 0.5 0.5 0 0.2", "size 0 x 0.2"),
        ("0 0.5 0.5 0.2 1e-60", "size 0.2 x 0"),
        ("0 0.5 0.5 0.2 -0.0005", "size 0.2 x 0"),
        ("0 0.1 0.1 0.1 0.5 0.1 0.9", "size 0 x 0.8"),
    ],
)
def test_a_bad_row_is_told_and_the_others_are_kept(tmp_path, row, found):
    labels = read(tmp_path, f"1 0.5 0.5 0.2 0.2\n\n{row}\n2 0.5 0.5 0.2 0.2\n")
    assert labels.boxes[:, 0].tolist() == [1, 2]
    assert len(labels.polygons) == 2
    (problem,) = labels.problems
    assert problem.line == 3
    assert str(problem).startswith(f"{tmp_path / 'a.txt'}:3: found ")
    assert found in str(problem)
    assert ", expected " in str(problem)


def test_rounding_is_clipped_and_counted(tmp_path):
    labels = read(tmp_path, "0 0.5 0.5 1.0005 0.2\n0 -0.0009 0.1 0.5 0.1 0.5 0.5\n1 0.5 0.5 1 1\n")
    assert labels.boxes[0, 3] == 1
    assert labels.polygons[1].min() == 0
    np.testing.assert_allclose(labels.boxes[1], [0, 0.25, 0.3, 0.5, 0.4], rtol=1e-6)
    assert len(labels.warnings) == 2
    assert ":1: coordinates clipped" in labels.warnings[0]


def test_duplicates_are_dropped_and_the_order_kept(tmp_path):
    labels = read(tmp_path, "2 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n2 0.50 0.5 0.2 0.2\n1 0.5 0.5 0.2 0.2\n")
    assert labels.boxes[:, 0].tolist() == [2, 0, 1]
    assert len(labels.polygons) == 3
    assert len(labels.warnings) == 1
    assert ":3: duplicate" in labels.warnings[0]


coordinate = st.floats(0, 1, width=32)
box_row = st.tuples(st.integers(0, 79), st.lists(coordinate, min_size=4, max_size=4))
polygon_row = st.tuples(
    st.integers(0, 79), st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=8).map(lambda p: sum(p, ()))
)


@settings(max_examples=40)
@given(rows=st.lists(box_row | polygon_row, max_size=6))
def test_every_row_is_read_or_told(tmp_path_factory, rows):
    text = "\n".join(" ".join(map(str, (cls, *values))) for cls, values in rows)
    labels = read(tmp_path_factory.mktemp("labels"), text, nc=80)
    assert len(labels.boxes) == len(labels.polygons)
    assert len(labels.boxes) + len(labels.problems) + len(labels.warnings) == len(rows)
    for box, polygon in zip(labels.boxes, labels.polygons, strict=True):
        assert (box[3:] > 0).all()
        if polygon is not None:
            np.testing.assert_allclose(box[1:3] - box[3:] / 2, polygon.min(axis=0), atol=1e-6)
            np.testing.assert_allclose(box[1:3] + box[3:] / 2, polygon.max(axis=0), atol=1e-6)


@settings(max_examples=40)
@given(content=st.binary(max_size=80))
def test_any_bytes_are_read_without_an_exception(tmp_path_factory, content):
    labels = read(tmp_path_factory.mktemp("labels"), content)
    assert len(labels.boxes) == len(labels.polygons)
    assert np.isfinite(labels.boxes).all()
