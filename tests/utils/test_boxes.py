import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from utils.boxes import (
    clip_boxes,
    cxcywh_to_xyxy,
    letterbox_geometry,
    paired_iou,
    pairwise_iou,
    unletterbox,
    xyxy_to_cxcywh,
)

number = st.floats(-500, 500, width=32)
side = st.floats(0.5, 300, width=32)
boxes = st.lists(st.tuples(number, number, side, side), min_size=1, max_size=8)


@given(boxes)
def test_formats_round_trip(rows):
    given_boxes = torch.tensor(rows, dtype=torch.float64)
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(given_boxes)), given_boxes)


@given(boxes)
def test_overlap_properties(rows):
    a = torch.tensor(rows, dtype=torch.float64)
    b = a.flip(0)
    matrix = pairwise_iou(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b))
    torch.testing.assert_close(matrix.diagonal(), paired_iou(a, b))
    torch.testing.assert_close(paired_iou(a, b), paired_iou(b, a))
    torch.testing.assert_close(paired_iou(a, a), torch.ones(len(a), dtype=torch.float64), rtol=0, atol=1e-6)
    assert ((matrix >= 0) & (matrix <= 1)).all()
    for kind in ("giou", "diou", "ciou"):
        assert (paired_iou(a, b, kind=kind) <= paired_iou(a, b) + 1e-9).all()


def test_known_overlap():
    a, b = torch.tensor([[5.0, 5, 10, 10]]), torch.tensor([[10.0, 5, 10, 10]])
    assert paired_iou(a, b).item() == pytest.approx(1 / 3, abs=1e-6)
    assert paired_iou(a, b, kind="giou").item() == pytest.approx(1 / 3, abs=1e-6)
    assert paired_iou(a, b, kind="diou").item() == pytest.approx(1 / 3 - 25 / 325, abs=1e-6)


def test_no_boxes():
    empty = torch.zeros(0, 4)
    assert pairwise_iou(empty, torch.zeros(3, 4)).shape == (0, 3)
    assert paired_iou(empty, empty, kind="ciou").shape == (0,)


def test_ciou_gradcheck():
    a = torch.tensor([[5.0, 6, 10, 7], [0, 0, 2, 9]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[8.0, 5, 6, 9], [5, 5, 3, 1]], dtype=torch.float64)
    for kind in ("iou", "giou", "diou"):
        assert torch.autograd.gradcheck(lambda x, kind=kind: paired_iou(x, b, kind=kind), a)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="one shape"):
        paired_iou(torch.zeros(2, 4), torch.zeros(3, 4))


@given(st.integers(20, 900), st.integers(20, 900), st.sampled_from([(640, 640), (384, 640), (672, 512)]))
def test_unletterbox_inverts_the_geometry(height, width, shape):
    (gain_x, gain_y), (left, top) = letterbox_geometry(shape, (height, width))
    inner = torch.tensor([[0.1 * width, 0.2 * height, 0.7 * width, 0.9 * height]], dtype=torch.float64)
    there = inner * inner.new_tensor([gain_x, gain_y] * 2) + inner.new_tensor([left, top] * 2)
    torch.testing.assert_close(unletterbox(there, (height, width), (gain_x, gain_y), (left, top)), inner)


def test_clip():
    assert clip_boxes(torch.tensor([[-5.0, 3, 70, 50]]), (40, 60)).tolist() == [[0, 3, 60, 40]]
