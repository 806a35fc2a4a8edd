import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.converters.label_files import LabelledImage, format_row, write_label_files
from utils.data.labels import read_labels
from utils.errors import UserError


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ((0, 0, 200, 50), "3 0.500000 0.500000 1.000000 1.000000"),
        ((20, 10, 60, 15), "3 0.200000 0.250000 0.200000 0.100000"),
        ((-50, -5, 100, 25), "3 0.250000 0.250000 0.500000 0.500000"),
        ((180, 40, 300, 90), "3 0.950000 0.900000 0.100000 0.200000"),
        ((20, 10, 20, 15), None),
        ((60, 10, 20, 15), None),
        ((200, 10, 220, 15), None),
        ((0, 10, 200e-9, 15), None),  # would be written as a width of zero
    ],
)
def test_rows_by_hand(corners, expected):
    assert format_row((3, *corners), (50, 200)) == expected


number = st.floats(-1e4, 1e4)


@settings(max_examples=100)
@given(number, number, number, number, st.integers(1, 5000), st.integers(1, 5000))
def test_every_row_can_be_read_and_is_the_part_inside(tmp_path_factory, left, top, right, bottom, height, width):
    row = format_row((1, left, top, right, bottom), (height, width))
    inside = np.clip([left, top, right, bottom], 0, [width, height, width, height])
    fractions = (inside[2:] - inside[:2]) / [width, height]
    if row is None:
        assert min(fractions) <= 0.5e-6
        return
    file = tmp_path_factory.mktemp("x") / "a.txt"
    file.write_text(row)
    labels = read_labels(file, 2)
    assert not labels.problems
    assert not labels.warnings
    cx, cy = (inside[:2] + inside[2:]) / 2 / [width, height]
    np.testing.assert_allclose(labels.boxes, [[1, cx, cy, *fractions]], atol=6e-7)


def test_folder_is_made_anew_beside_the_images(tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "labels/sub").mkdir(parents=True)
    old = tmp_path / "labels/sub/old.txt"
    old.write_text("kept elsewhere")
    (tmp_path / "link.txt").hardlink_to(old)
    images = [
        LabelledImage(
            tmp_path / "images/train/a.jpg", (10, 20), [(0, 0, 0, 10, 10), (1, 5, 5, 5, 9), *[(0, 0, 0, 10, 10)] * 2]
        ),
        LabelledImage(tmp_path / "images/b.jpg", (10, 20), []),
    ]
    write_label_files(tmp_path / "labels", iter(images))
    files = sorted(p for p in (tmp_path / "labels").rglob("*") if p.is_file())
    assert files == [tmp_path / "labels/b.txt", tmp_path / "labels/train/a.txt"]
    assert [p.read_bytes() for p in files] == [b"", b"0 0.250000 0.500000 0.500000 1.000000\n"]
    assert (tmp_path / "link.txt").read_text() == "kept elsewhere"
    assert "left out 1 boxes without an area" in caplog.text
    assert "left out 2 boxes that repeat another of their image" in caplog.text


def test_two_images_with_one_label_file_are_refused(tmp_path):
    images = [LabelledImage(tmp_path / "images" / name, (10, 20), []) for name in ("a.jpg", "a.png")]
    with pytest.raises(UserError, match=r"a\.png: found another image that has the same label file"):
        write_label_files(tmp_path / "labels", images)
