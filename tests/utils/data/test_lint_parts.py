"""The parts of the linter against slow and simple ones."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import utils.boxes
from utils.data.labels import TOLERANCE, LabelOrigin, read_labels
from utils.data.lint.boxes import Place, check_boxes, corners_of, pairwise_iou
from utils.data.lint.duplicates import ALIKE, ALIKE_ANYWHERE, _lookalikes
from utils.data.lint.findings import Finding, finding_of
from utils.data.lint.repair import _format
from utils.data.lint.report import write_csv
from utils.data.lint.rows import read_rows
from utils.data.lint.survey import Item
from utils.show.lint_pictures import save_overview

number = st.one_of(
    st.floats(0, 1),
    st.floats(-0.002, 1.002),
    st.sampled_from([0, 1, -1, 2, 0.5, 1e-9, float("nan"), float("inf"), "x"]),
)
row = st.one_of(
    st.lists(number, max_size=8),
    st.tuples(st.sampled_from([0, 1, 2, 0.5]), *[st.floats(0, 1)] * 4),
    st.just((1, 0.5, 0.5, 0.2, 0.3)),
)
boxes = st.lists(st.tuples(st.integers(0, 1), *[st.floats(0.0078125, 1, width=32)] * 4), max_size=6)


@settings(max_examples=60)
@given(st.lists(row, max_size=6))
@example([(0, 0.0, 1.0, 1.0, 1e-38)])
@example([("x", 0.5, 0.5, 0.2, 0.2), (float("nan"), 0.5, 0.5, 0.2, 0.2)])
def test_errors_are_what_training_refuses_and_a_mended_file_has_none(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("labels") / "a.txt"
    text = "\n".join(" ".join(map(str, values)) for values in rows)
    file.write_text(text)
    read = read_rows(LabelOrigin(str(file), partial(read_labels, file, 2)), Path("a.png"))
    labels = read_labels(file, 2)
    errors = [finding for finding in read.findings if finding.level == "error"]
    assert [finding.line for finding in errors] == [problem.line for problem in labels.problems]
    assert "bad annotation" not in {finding.kind for finding in errors}  # each has a kind of its own
    np.testing.assert_array_equal(read.labels.boxes, labels.boxes)
    lines = text.splitlines()
    assert len(read.lines) == len(labels.boxes)
    assert [float(lines[line - 1].split()[0]) for line in read.lines] == labels.boxes[:, 0].tolist()

    file.write_text(_format(labels))
    again = read_labels(file, 2)
    assert again.problems == again.warnings == []
    assert {0 if p is None else len(p) for p in again.polygons} == {0 if p is None else len(p) for p in labels.polygons}
    before, after = corners_of(labels.boxes).clip(0, 1), corners_of(again.boxes)
    differences = np.abs(before[:, None] - after).max(axis=2)
    assert (differences.min(axis=1, initial=1) < TOLERANCE + 1e-6).all()  # each is still there
    assert (differences.min(axis=0, initial=1) < TOLERANCE + 1e-6).all()  # and nothing else


@settings(max_examples=30)
@given(boxes, boxes)
def test_overlap(first, second):
    one, other = (corners_of(np.array(each, np.float32).reshape(-1, 5)) for each in (first, second))
    expected = utils.boxes.pairwise_iou(torch.from_numpy(one), torch.from_numpy(other), eps=0)
    np.testing.assert_allclose(pairwise_iou(one, other), expected.numpy(), atol=1e-9)


def item(seed: int, thumbnail) -> Item:
    return Item(Path(f"{seed}.png"), Path(f"{seed}.txt"), shape=(60, 80), thumbnail=thumbnail)


def test_lookalikes_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    base = rng.integers(20, 230, (30, 16, 16, 3))
    near = base + rng.integers(-3, 4, base.shape) * rng.integers(0, 2, (30, 1, 1, 1))
    near[::3, 0, 0] += rng.integers(8, 16, (10, 3))
    first, second = ([item(i, t) for i, t in enumerate(each.astype(np.uint8))] for each in (base, near))
    expected = set()
    for a in first:
        for b in second:
            difference = np.abs(a.thumbnail.astype(int) - b.thumbnail)
            if difference.mean() <= ALIKE and difference.max() <= ALIKE_ANYWHERE:
                expected.add((a.image, b.image))
    assert 5 < len(expected) < 30
    assert {(a.image, b.image) for a, b, _ in _lookalikes(first, second)} == expected
    assert [*_lookalikes([], second)] == [*_lookalikes(first, [])] == []


def kinds(rows, shape=(200, 400), imgsz=400, lines=None):
    labels = np.array(rows, np.float32).reshape(-1, 5)
    place = Place(Path("a.txt"), Path("a.png"), lines or list(range(1, len(rows) + 1)))
    return [(f.kind, f.line, f.boxes) for f in check_boxes(labels, place, shape, {0: "cat", 1: "dog"}, imgsz)]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0.5, 0.5, 0.2, 0.2), []),
        ((0.5, 0.5, 2.9 / 400, 0.2), ["tiny box"]),
        ((0.5, 0.5, 3.1 / 400, 3.1 / 200), []),
        ((0.5, 0.5, 0.2, 3.9 / 200), ["extreme shape"]),
        ((0.5, 0.5, 0.2, 4.1 / 200), []),
        ((0.5, 0.5, 0.992, 0.992), ["giant box"]),
        ((0.5, 0.5, 1, 0.98), []),
        ((0.5, 0.5, 1, 1), ["giant box"]),
        ((0.1, 0.5, 0.2, 0.2), []),
        ((0.1, 0.5, 0.204, 0.2), ["box over the border"]),
        ((0.5, 0.9, 0.2, 0.21), ["box over the border"]),
    ],
)
def test_one_box(box, expected):
    assert [kind for kind, _, _ in kinds([(0, *box)])] == expected


def test_size_in_training():
    assert kinds([(0, 0.5, 0.5, 0.01, 0.1)], imgsz=400) == []  # 4 pixels of 400
    assert [kind for kind, _, _ in kinds([(0, 0.5, 0.5, 0.01, 0.1)], imgsz=160)] == ["tiny box"]  # 1.6
    assert [kind for kind, _, _ in kinds([(0, 0.5, 0.5, 0.005, 0.05)], imgsz=640)] == ["tiny box"]  # 2 of the image


def test_pairs_are_named_by_the_second_line():
    rows = [(0, 0.5, 0.5, 0.2, 0.4), (1, 0.2, 0.2, 0.1, 0.1), (0, 0.5, 0.5, 0.2, 0.385), (1, 0.5, 0.5, 0.2, 0.37)]
    assert kinds(rows, lines=[2, 3, 5, 9]) == [
        ("overlapping boxes", 5, (0, 2)),  # IoU 0.9625
        ("two classes in one box", 9, (2, 3)),  # 0.961; rows 0 and 3 have 0.925
    ]


def test_splits_with_boxes_of_the_same_sizes_are_all_seen(tmp_path):
    sizes = np.exp(np.random.default_rng(0).normal(4, 0.5, (200, 2)))

    def ink(**splits):
        """Blue and orange pixels in the right half: those of the first and the second split."""
        counts = {split: np.zeros(1, np.int64) for split in splits}
        save_overview(tmp_path / "a.png", counts, splits, {0: "cat"})
        picture = cv2.imread(str(tmp_path / "a.png")).astype(int)
        right = picture[:, picture.shape[1] // 2 :]
        strong = np.ptp(right, axis=2) > 60
        return [int((strong & (right.argmax(axis=2) == channel)).sum()) for channel in (0, 2)]

    blue, nothing = ink(train=sizes)
    assert blue > 1000
    assert nothing == 0
    both = ink(train=sizes, val=np.tile(sizes, (3, 1)), test=np.zeros((0, 2)))  # thrice as many, equal shares
    assert min(both) > blue / 5


def test_messages_become_findings():
    file = Path("a.xml")

    def parts(message):
        found = finding_of(message, "broken image", file, "an image")
        return found.line, found.found, found.expected, found.remedy

    assert parts("a.xml:3: not valid XML (x, y); correct that line") == (
        3,
        "not valid XML (x, y)",
        "an image",
        "correct that line",
    )
    assert parts("a.xml: found one, expected two; do it") == (None, "one", "two", "do it")
    assert parts("a.xml: is empty") == (None, "is empty", "an image", "correct it")
    assert parts("b.xml: found one, expected two, or 3; do it")[1:] == ("b.xml: found one", "two, or 3", "do it")
    assert str(Finding(file, 4, "f", "e", "r", "columns")) == "a.xml:4: found f, expected e; r"


def test_names_that_are_no_text_can_be_written(tmp_path):
    write_csv(tmp_path / "a.csv", [("file",), ("\udcff.jpg",), ('a,"b\nc',)])
    assert (tmp_path / "a.csv").read_text() == 'file\n\\udcff.jpg\n"a,""b\nc"\n'


def test_the_command_does_not_wait_for_torch():
    code = "import sys, utils.data.lint.__main__; sys.exit('torch' in sys.modules)"
    root = Path(utils.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
