import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.nms import Detections
from utils.show.draw import colour_of, draw_detections
from utils.show.fonts import font_for

NAMES = {0: "person", 1: "Fußgänger", 2: "велосипед"}


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].long())


def grey(h: int, w: int) -> np.ndarray:
    return np.full((h, w, 3), 114, np.uint8)


def test_colours_are_distinct_and_repeat() -> None:
    colours = [colour_of(i) for i in range(20)]
    assert len(set(colours)) == 20
    assert colour_of(20) == colour_of(0) and colour_of(39) == colour_of(19)
    distances = [np.abs(np.subtract(a, b)).sum() for i, a in enumerate(colours) for b in colours[:i]]
    assert min(distances) > 60


def test_image_is_not_modified_and_empty_detections_change_nothing() -> None:
    image = grey(40, 60)
    drawn = draw_detections(image, found(), NAMES)
    assert drawn is not image and (drawn == image).all()
    draw_detections(image, found((5, 5, 30, 30, 0.9, 0)), NAMES)
    assert (image == 114).all()


def test_lines_run_along_the_box_in_the_colour_of_the_class() -> None:
    drawn = draw_detections(grey(400, 600), found((100, 50, 300, 250, 0.9, 2)), NAMES, hide_labels=True)
    coloured = (drawn == colour_of(2)).all(axis=2)
    ys, xs = np.nonzero(coloured)
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == (99, 49, 301, 251)
    assert coloured[150].sum() == 6 and coloured[60:240, 105:295].sum() == 0


@pytest.mark.parametrize(("shape", "width"), [((400, 600), 3), ((60, 96), 1), ((2400, 3000), 9)])
def test_line_thickness_follows_extreme_image_sizes(shape: tuple[int, int], width: int) -> None:
    h, w = shape
    drawn = draw_detections(grey(h, w), found((w // 4, h // 4, w // 2, h // 2, 0.9, 0)), NAMES, hide_labels=True)
    assert (drawn[3 * h // 8] == colour_of(0)).all(axis=1).sum() == 2 * width


def test_the_most_confident_is_on_top() -> None:
    same = (100.0, 100.0, 200.0, 200.0)
    drawn = draw_detections(grey(400, 400), found((*same, 0.9, 1), (*same, 0.4, 0)), NAMES, hide_labels=True)
    assert tuple(drawn[150, 100]) == colour_of(1)


def test_label_is_above_the_box_if_there_is_room_else_inside() -> None:
    above = draw_detections(grey(400, 600), found((100, 50, 300, 250, 0.9, 0)), NAMES)
    assert (above[35:45, 98:140] != 114).any() and (above[60:240, 105:290] == 114).all()
    inside = draw_detections(grey(400, 600), found((100, 4, 300, 250, 0.9, 0)), NAMES)
    assert (inside[0:2] == 114).all() and (inside[10:16, 110:140] != 114).any()


def test_label_stays_in_the_image_at_the_right_border() -> None:
    drawn = draw_detections(grey(400, 600), found((590, 200, 600, 250, 0.9, 1)), NAMES)
    assert (drawn[185:195, 500:580] != 114).any()


def test_hidden_confidence_makes_a_shorter_label() -> None:
    box = found((100, 100, 120, 200, 0.9, 0))
    full, name_only, none = (
        (draw_detections(grey(400, 600), box, NAMES, **flags)[:98] != 114).any(axis=2).sum()
        for flags in ({}, {"hide_conf": True}, {"hide_labels": True})
    )
    assert full > name_only > none == 0


def test_letters_beyond_ascii_are_drawn() -> None:
    box = found((100, 100, 120, 200, 0.9, 0))
    pictures = [draw_detections(grey(300, 400), box, {0: name}, hide_conf=True) for name in ("жук", "???", "äöü")]
    assert not (pictures[0] == pictures[1]).all() and not (pictures[1] == pictures[2]).all()


def test_a_character_no_font_has_is_told_and_survived(caplog: pytest.LogCaptureFixture) -> None:
    unassigned = "\U000effff"
    assert font_for(unassigned, 12).getlength(unassigned) > 0
    assert "no font on this machine" in caplog.text


def test_box_at_and_beyond_the_border() -> None:
    everything = draw_detections(grey(400, 600), found((0, 0, 600, 400, 0.9, 0)), NAMES, hide_labels=True)
    coloured = (everything == colour_of(0)).all(axis=2)
    assert coloured[0].all() and coloured[-1].all() and coloured[:, 0].all() and coloured[:, -1].all()
    outside = draw_detections(grey(400, 600), found((700, 0, 800, 400, 0.9, 0)), NAMES, hide_labels=True)
    assert (outside == 114).all()


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    box=st.tuples(*[st.floats(-50, 150) for _ in range(4)]),
    thickness=st.integers(1, 9),
)
def test_any_box_in_any_image(shape: tuple[int, int], box: tuple[float, ...], thickness: int) -> None:
    x1, y1, x2, y2 = box
    row = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2), 0.5, 0)
    drawn = draw_detections(grey(*shape), found(row), NAMES, line_thickness=thickness)
    assert drawn.shape == (*shape, 3) and drawn.dtype == np.uint8


def test_a_name_with_a_line_break_is_drawn_on_one_line() -> None:
    box = found((20, 60, 90, 90, 0.5, 0))
    broken, plain = (draw_detections(grey(120, 200), box, {0: name}) for name in ("b\nc", "b c"))
    np.testing.assert_array_equal(broken, plain)
