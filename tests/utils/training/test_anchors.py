import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from utils.training.anchors import anchor_fit, object_sizes, report_anchor_fit
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
