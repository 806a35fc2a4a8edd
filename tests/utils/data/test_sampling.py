from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.sampling import LEAST_WEIGHT, BatchOrder, class_balanced_weights, image_weights
from utils.data.scan import Sample


def make_order(count=5, batch_size=2, *, shuffle=True, keep_batches=False, seed=0, epoch=4, **options):
    order = BatchOrder(count, batch_size, shuffle=shuffle, keep_batches=keep_batches, seed=seed, **options)
    order.epoch = epoch
    return order


def test_order_of_batches():
    order = make_order()
    plans = list(order)
    assert len(order) == 3 and [len(plan.groups) for plan in plans] == [2, 2, 1]
    keys = [key for plan in plans for (key,) in plan.groups]
    assert sorted(keys) == [(4, index) for index in range(5)]
    assert plans == list(order)
    assert plans != list(make_order(seed=1)) and plans != list(make_order(epoch=5))


@given(
    count=st.integers(1, 30),
    batch_size=st.integers(1, 9),
    world=st.integers(1, 5),
    quad=st.booleans(),
    keep=st.booleans(),
    weighted=st.booleans(),
)
@settings(max_examples=60)
def test_ranks_share_the_batches_of_one_process(count, batch_size, world, quad, keep, weighted):
    batch_size = min(batch_size, count)

    def plans(**options):
        order = make_order(count, batch_size, keep_batches=keep, quad=quad, **options)
        if weighted and not keep:
            order.weights = np.arange(1, count + 1) / (count * (count + 1) / 2)
        found = list(order)
        assert len(order) == len(found)
        return found

    alone = plans()
    filled = [plans(rank=rank, world_size=world, fill=True) for rank in range(world)]
    exact = [plans(rank=rank, world_size=world) for rank in range(world)]
    for step, plan in enumerate(alone):
        total = len(plan.groups)
        assert not plan.filler
        shares = [own[step] for own in filled]
        merged = [None] * total
        for rank, share in enumerate(shares):
            assert share.groups
            assert share.filler == (rank >= total)
            if not share.filler:
                merged[rank::world] = share.groups
        assert merged == plan.groups
    assert all(len(own) == len(alone) for own in filled)
    everything = sorted(group for plan in alone for group in plan.groups)
    assert sorted(group for own in exact for plan in own for group in plan.groups) == everything


def test_quad_groups_leave_nothing_out():
    (first, second) = make_order(11, 8, quad=True)
    assert [len(group) for group in first.groups] == [4, 4]
    assert [len(group) for group in second.groups] == [1, 1, 1]


def test_weights_decide_how_often_images_come_and_each_draw_is_another_one():
    order = make_order(4, 4)
    order.weights = np.array([0, 0.5, 0.5, 0])
    keys = [key for plan in order for (key,) in plan.groups]
    assert len(keys) == len(set(keys)) == 4 and {key[1] for key in keys} <= {1, 2}
    assert any(len(key) == 3 for key in keys)
    assert list(order) == list(order)
    counts = np.zeros(4)
    for epoch in range(100):
        order.epoch = epoch
        for plan in order:
            for (key,) in plan.groups:
                counts[key[1]] += 1
    assert counts[0] == counts[3] == 0 and counts[1] == pytest.approx(200, abs=45)


def samples(*images):
    return [
        Sample(Path(), (9, 9), np.array([(c, 0.5, 0.5, 0.1, 0.1) for c in image], np.float32).reshape(-1, 5), [])
        for image in images
    ]


def test_image_weights_follow_the_formula():
    found = image_weights(samples([0, 0, 1], [1], [1, 1]), np.array([0.5, 0.0, 0.3]))
    cw = np.array([0.25 / 2, 1 / 4])
    expected = np.array([2 * cw[0] + cw[1], cw[1], 2 * cw[1]])
    assert np.allclose(found, expected / expected.sum())


def test_image_weights_keep_everything_in_sight():
    found = image_weights(samples([0], [1], [], [1]), np.array([0.0, 1.0]))
    assert found.sum() == pytest.approx(1) and found[0] > 0.7
    assert np.allclose(found[1:], found[1]) and found[1] > LEAST_WEIGHT / 4 / 1.3
    assert np.allclose(image_weights(samples([0], [], [1]), np.ones(2)), 1 / 3)
    assert np.allclose(image_weights(samples([], []), np.zeros(2)), 0.5)


def test_class_balanced_weights_meet_every_class_as_often():
    found = class_balanced_weights(samples([0], [0], [0, 0, 0], [2, 2], [], [0]), 4)
    assert found.sum() == pytest.approx(1)
    assert found[4] == pytest.approx(1 / 6)  # backgrounds keep their part
    assert found[3] == pytest.approx(5 / 12) and found[[0, 1, 2, 5]].sum() == pytest.approx(5 / 12)
    assert np.allclose(class_balanced_weights(samples([], []), 3), 0.5)
