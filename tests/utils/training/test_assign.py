import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.training.assign import assign_targets

SHAPES = [(6, 10), (3, 5)]
ANCHORS = torch.tensor([[[1.25, 2.0], [3.0, 1.5], [0.5, 0.5]], [[2.0, 2.0], [0.75, 3.0], [5.0, 4.0]]])

lattice = st.integers(0, 128).map(lambda i: i / 128)  # exact in float32, and often on an edge or exactly half a cell
targets_strategy = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 4), lattice, lattice, lattice, lattice), max_size=5
)


def oracle(targets, shape, anchors, anchor_t):
    """Rows (image, anchor, row, col, box, class) by the rules, one case after the other."""
    h, w = shape
    rows = []
    for side in ("centre", "left", "up", "right", "down"):
        for a, (aw, ah) in enumerate(anchors):
            for image, cls, x, y, bw, bh in targets:
                x_, y_, w_, h_ = x * w, y * h, bw * w, bh * h
                if min(w_, h_) == 0 or max(w_ / aw, aw / w_, h_ / ah, ah / h_) >= anchor_t:
                    continue
                dx = dy = 0.0
                if side == "left":
                    near, dx = x_ % 1 < 0.5 and x_ > 1, -0.5
                elif side == "up":
                    near, dy = y_ % 1 < 0.5 and y_ > 1, -0.5
                elif side == "right":
                    near, dx = (w - x_) % 1 < 0.5 and w - x_ > 1, 0.5
                elif side == "down":
                    near, dy = (h - y_) % 1 < 0.5 and h - y_ > 1, 0.5
                else:
                    near = True
                if near:
                    col = min(max(int(x_ + dx), 0), w - 1)
                    row = min(max(int(y_ + dy), 0), h - 1)
                    rows.append((image, a, row, col, (x_ - col, y_ - row, w_, h_), cls))
    return rows


@given(targets_strategy)
@settings(max_examples=60)
def test_agrees_with_the_rules_written_out(targets):
    tensor = torch.tensor(targets, dtype=torch.float32).view(-1, 6)
    levels = assign_targets(tensor, SHAPES, ANCHORS, 4.0)
    for level, shape, anchors in zip(levels, SHAPES, ANCHORS, strict=True):
        expected = oracle(targets, shape, anchors.tolist(), 4.0)
        assert list(
            zip(level.image.tolist(), level.anchor.tolist(), level.row.tolist(), level.col.tolist(), strict=True)
        ) == [row[:4] for row in expected]
        assert level.classes.tolist() == [row[5] for row in expected]
        assert torch.equal(level.boxes, torch.tensor([row[4] for row in expected]).view(-1, 4))
        assert torch.equal(level.anchors, anchors[level.anchor])


def test_one_target_by_hand():
    # Centre (2.25, 1.75) on a 6 x 10 grid: cell (row 1, col 2), and the nearer neighbours: left and lower.
    target = torch.tensor([[1, 3, 0.225, 1.75 / 6, 0.125, 2 / 6]])
    level = assign_targets(target, [(6, 10)], torch.tensor([[[1.25, 2.0], [30.0, 30.0]]]), 4.0)[0]
    assert level.image.tolist() == [1, 1, 1]
    assert level.classes.tolist() == [3, 3, 3]
    assert level.anchor.tolist() == [0, 0, 0]
    assert list(zip(level.row.tolist(), level.col.tolist(), strict=True)) == [(1, 2), (1, 1), (2, 2)]
    expected = torch.tensor([[0.25, 0.75, 1.25, 2.0], [1.25, 0.75, 1.25, 2.0], [0.25, -0.25, 1.25, 2.0]])
    torch.testing.assert_close(level.boxes, expected)


def test_ratio_must_be_below_the_limit():
    target = torch.tensor([[0, 0, 0.5, 0.5, 0.5, 0.5]])  # 4 x 4 cells of 8
    anchors = torch.tensor([[[1.0, 4.0], [1.0625, 4.0], [16.0, 4.0], [15.0, 4.0]]])
    assert set(assign_targets(target, [(8, 8)], anchors, 4.0)[0].anchor.tolist()) == {1, 3}


@pytest.mark.parametrize("xy", [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
def test_corners_stay_in_the_grid(xy):
    level = assign_targets(torch.tensor([[0, 0, *xy, 0.2, 0.3]]), [(6, 10)], ANCHORS[:1], 4.0)[0]
    assert len(level.row)
    assert level.row.min() >= 0
    assert level.row.max() < 6
    assert level.col.min() >= 0
    assert level.col.max() < 10


def test_no_targets():
    for level in assign_targets(torch.zeros(0, 6), SHAPES, ANCHORS, 4.0):
        assert level.boxes.shape == (0, 4)
        assert level.anchors.shape == (0, 2)
        assert level.image.dtype == level.classes.dtype == torch.int64
