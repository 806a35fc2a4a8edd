import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.errors import UserError
from utils.training import anchors
from utils.training.anchors import anchor_fit, find_anchors, object_sizes, report_anchor_fit, suit_anchors
from utils.training.assign import assign_targets

ANCHORS = torch.tensor([[10.0, 20.0], [40.0, 30.0]])


def test_by_hand():
    sizes = torch.tensor([[10.0, 20.0], [20.0, 25.0], [200.0, 20.0], [40.0, 20.0]])
    # The first fits anchor 0 alone (4 times narrower than anchor 1 is not enough), the second both, the third none,
    # the fourth only anchor 1: 40 is exactly four times 10.
    fit = anchor_fit(sizes, ANCHORS, 4.0)
    assert (fit.recall, fit.per_object) == (0.75, 1.0)


@given(st.lists(st.tuples(st.integers(1, 640), st.integers(1, 640)), min_size=1, max_size=5))
def test_agrees_with_the_assignment(sizes):
    pixels = torch.tensor(sizes, dtype=torch.float32)
    targets = torch.zeros(len(sizes), 6)
    targets[:, 0] = torch.arange(len(sizes))
    targets[:, 2:4] = 0.5
    targets[:, 4:] = pixels / 1024
    # Numbers that are exact in float32, so that both see the same ratios.
    level = assign_targets(targets, [(1024, 1024)], ANCHORS[None], 4.5)[0]
    taken = {(i, a) for i, a in zip(level.image.tolist(), level.anchor.tolist(), strict=True)}
    fit = anchor_fit(pixels, ANCHORS, 4.5)
    assert fit.per_object == pytest.approx(len(taken) / len(sizes))
    assert fit.recall == pytest.approx(len({i for i, _ in taken}) / len(sizes))


def test_sizes_are_those_of_the_network_input():
    labels = [np.array([[0, 0.5, 0.5, 0.5, 0.25]], np.float32), np.zeros((0, 5), np.float32)]
    sizes = object_sizes([(100, 400), (30, 20)], labels, 640)
    zoom = sizes[0, 0].item() / 320
    assert 0.9 <= zoom <= 1.1
    torch.testing.assert_close(sizes, torch.tensor([[320 * zoom, 40 * zoom]]))
    assert torch.equal(sizes, object_sizes([(100, 400), (30, 20)], labels, 640))


def test_no_objects():
    sizes = object_sizes([(9, 9)], [np.zeros((0, 5), np.float32)], 640)
    assert sizes.shape == (0, 2)
    assert anchor_fit(sizes, ANCHORS, 4.0).recall == 1


def test_warns_only_if_objects_are_out_of_reach(caplog):
    caplog.set_level(logging.WARNING)
    report_anchor_fit(torch.tensor([[10.0, 20.0]]), ANCHORS, 4.0)
    assert caplog.text == ""
    report_anchor_fit(torch.tensor([[10.0, 20.0], [1.0, 1.0]]), ANCHORS, 4.0)
    assert "50.0 % of the objects" in caplog.text


COCO = torch.tensor(
    [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]], dtype=torch.float32
).view(3, 3, 2)
STRIDE = torch.tensor([8.0, 16.0, 32.0])


def labelled(sizes, imgsz=640):
    """One square image whose labels are objects of these sizes in pixels."""
    rows = np.zeros((len(sizes), 5), np.float32)
    rows[:, 1:3] = 0.5
    rows[:, 3:] = np.asarray(sizes, np.float32).reshape(-1, 2) / imgsz
    return [(imgsz, imgsz)], [rows]


def likeness(sizes, anchors, anchor_t=4.0):
    """The quantity to be maximised, written down as its definition says."""
    values = []
    for w, h in sizes.tolist():
        of_each = [min(w / aw, aw / w, h / ah, ah / h) for aw, ah in anchors.tolist()]
        values.append(max(of_each) if max(of_each) > 1 / anchor_t else 0.0)
    return sum(values) / len(values)


def long_objects(count=400, seed=3):
    """Objects much wider than high, for which the anchors of COCO are no good."""
    rng = np.random.default_rng(seed)
    heights = np.exp(rng.uniform(np.log(4), np.log(60), count))
    return torch.from_numpy(np.stack([heights * rng.uniform(6, 10, count), heights], 1)).float()


def test_found_anchors_are_near_clusters():
    rng = np.random.default_rng(1)
    centres = np.array([[12.0, 40.0], [90.0, 30.0], [300.0, 250.0]])
    sizes = np.concatenate([centre * rng.uniform(0.95, 1.05, (60, 2)) for centre in centres])
    found = find_anchors(torch.from_numpy(sizes), 3, 4.0)
    np.testing.assert_allclose(found, centres, rtol=0.05)


def test_found_anchors_beat_those_of_coco_and_the_clusters_alone(monkeypatch):
    sizes = long_objects()
    found = find_anchors(sizes, 9, 4.0)
    assert likeness(sizes, found) > 0.8 > 0.5 > likeness(sizes, COCO.view(-1, 2))
    monkeypatch.setattr(anchors, "_GENERATIONS", 0)
    assert likeness(sizes, found) > likeness(sizes, find_anchors(sizes, 9, 4.0))


def test_the_seed_decides():
    sizes = long_objects()
    assert torch.equal(find_anchors(sizes, 6, 4.0, seed=5), find_anchors(sizes, 6, 4.0, seed=5))
    assert not torch.equal(find_anchors(sizes, 6, 4.0, seed=5), find_anchors(sizes, 6, 4.0, seed=6))
    state = np.random.get_state()[1].copy()
    find_anchors(sizes, 6, 4.0)
    assert np.array_equal(np.random.get_state()[1], state)


def test_many_objects_are_sampled(monkeypatch):
    sizes = long_objects(3000)
    monkeypatch.setattr(anchors, "_LARGEST_SAMPLE", 300)
    assert likeness(sizes, find_anchors(sizes, 9, 4.0)) > 0.75


@given(
    st.lists(st.tuples(*[st.floats(0, 5000, width=32)] * 2), min_size=1, max_size=30),
    st.integers(1, 12),
)
@settings(max_examples=25)
def test_odd_objects(sizes, count):
    found = find_anchors(torch.tensor(sizes), count, 4.0)
    if not any(min(size) > 0 and max(size) >= 2 for size in sizes):
        assert found is None
        return
    assert found.shape == (count, 2)
    assert found.isfinite().all()
    assert (found >= 2).all()
    area = found.prod(1)
    assert (area.diff() >= -0.2 * found.sum(1)[1:]).all()  # sorted before they were rounded


@pytest.mark.parametrize("sizes", [[[70.0, 33.0]], [[70.0, 33.0]] * 500, [[70.0, 33.0], [8.0, 9.0]]])
def test_fewer_sizes_than_anchors(sizes):
    sizes = torch.tensor(sizes)
    found = find_anchors(sizes, 9, 4.0)
    assert likeness(sizes, found) > 0.99
    assert len(found.unique(dim=0)) == 9  # objects of other sizes in other images find one too


def test_warns_of_tiny_objects(caplog):
    find_anchors(torch.tensor([[2.5, 40.0], [30.0, 30.0], [1.0, 1.0]]), 3, 4.0)
    assert "2 of 3 objects have a side below 3 px" in caplog.text


def test_good_anchors_are_kept_as_they_are(caplog):
    caplog.set_level(logging.INFO)
    shapes, labels = labelled(np.random.default_rng(0).uniform(15, 300, (100, 2)))
    assert suit_anchors(COCO, STRIDE, shapes, labels, 640, 4.0) is COCO
    assert "best possible recall" in caplog.text
    assert "new anchors" not in caplog.text


def test_bad_anchors_are_replaced_level_by_level(caplog):
    caplog.set_level(logging.INFO)
    shapes, labels = labelled(long_objects())
    seen = object_sizes(shapes, labels, 640)
    before = COCO.clone()
    after = suit_anchors(COCO, STRIDE, shapes, labels, 640, 4.0)
    assert torch.equal(before, COCO)
    assert anchor_fit(seen, COCO.view(-1, 2), 4.0).recall < 0.96
    assert anchor_fit(seen, after.view(-1, 2), 4.0).recall > 0.98
    assert (after.prod(-1).mean(-1).diff() > 0).all()
    assert "new anchors" in caplog.text
    downwards = suit_anchors(COCO.flip(0), STRIDE.flip(0), shapes, labels, 640, 4.0)
    assert torch.equal(downwards, after.flip(0))


def test_anchors_no_better_are_not_taken(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(anchors, "find_anchors", lambda sizes, count, *_, **__: torch.full((count, 2), 2.0))
    shapes, labels = labelled(long_objects())
    assert suit_anchors(COCO, STRIDE, shapes, labels, 640, 4.0) is COCO
    assert "none reach more objects" in caplog.text


def test_anchors_still_to_be_found():
    places = torch.arange(8.0).view(1, 4, 2).repeat(3, 1, 1)  # as a model with `anchors: 4` holds them
    shapes, labels = labelled(long_objects())
    found = suit_anchors(places, STRIDE, shapes, labels, 640, 4.0)
    assert found.shape == (3, 4, 2)
    assert (found > 0).all()
    with pytest.raises(UserError, match="no object is 2 px or larger at --imgsz 640"):
        suit_anchors(places, STRIDE, *labelled([[1.0, 1.5]]), 640, 4.0)
    assert suit_anchors(COCO, STRIDE, *labelled([[1.0, 1.5]]), 640, 4.0) is COCO
