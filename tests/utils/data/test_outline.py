import cv2
import numpy as np
import pytest

from utils.data.outline import joined_outline


def rectangle(x, y, w, h):
    return np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], np.float64)


def filled(*outlines):
    mask = np.zeros((60, 90), np.uint8)
    cv2.fillPoly(mask, [np.round(outline).astype(np.int32) for outline in outlines], 1)
    return mask


def test_one_part_stays_as_it_is():
    part = rectangle(3, 4, 10, 7)
    np.testing.assert_array_equal(joined_outline([part]), part)


def test_bridge_by_hand():
    left, right = np.array([(0.0, 0), (4, 1), (0, 2)]), np.array([(9.0, 0), (9, 2), (6, 1)])
    expected = [(0, 0), (4, 1), (6, 1), (9, 0), (9, 2), (6, 1), (4, 1), (0, 2)]
    np.testing.assert_array_equal(joined_outline([left, right]), expected)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_filled_outline_is_the_parts_filled(order):
    parts = [rectangle(2, 3, 15, 20), rectangle(50, 5, 30, 11), rectangle(30, 40, 9, 17)]
    outline = joined_outline([parts[i] for i in order])
    assert len(outline) == 3 * 4 + 2 * 2
    x, y = outline.T
    assert abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2) == 15 * 20 + 30 * 11 + 9 * 17
    extra = filled(outline).astype(int) - filled(*parts)
    assert extra.min() == 0
    assert extra.sum() < 60  # a line a pixel wide for each bridge
