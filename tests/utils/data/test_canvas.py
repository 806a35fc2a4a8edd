import numpy as np
import pytest

from utils.data.canvas import Canvas, Picture
from utils.data.images import PAD_GREY


def flat(height, width, level):
    return Picture((height, width), lambda: np.full((height, width, 3), level, np.uint8))


@pytest.mark.parametrize("window", [(0, 0, 30, 20), (5, 3, 22, 19), (-4, -6, 40, 9), (12, 7, 13, 8), (40, 30, 50, 33)])
def test_a_window_is_a_part_of_the_whole_and_grey_beyond(window):
    canvas = Canvas((20, 30), [(flat(10, 12, 1), (-3, 2)), (flat(9, 9, 2), (4, 4)), (flat(50, 5, 3), (28, -5))])
    whole = np.full((80, 90, 3), PAD_GREY, np.uint8)  # the canvas starts at (30, 30)
    whole[30:50, 30:60] = canvas.whole()
    left, top, right, bottom = (side + 30 for side in window)
    assert np.array_equal(canvas.window(*window), whole[top:bottom, left:right])
    assert canvas.whole()[5, 5, 0] == 2 and canvas.whole()[3, 0, 0] == 1 and (canvas.whole()[:, 28:] == 3).all()


def test_what_is_not_looked_at_is_not_read():
    def unread():
        raise AssertionError

    canvas = Canvas((20, 20), [(Picture((20, 10), unread), (0, 0)), (flat(20, 10, 7), (10, 0))])
    assert (canvas.window(10, 0, 20, 20) == 7).all()


def test_of_an_image_is_the_image():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert Canvas.of(image).shape == (2, 4) and np.shares_memory(Canvas.of(image).whole(), image)
