import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.images import PAD_GREY
from utils.data.mosaic import copy_paste, mixup, mosaic
from utils.data.objects import Objects


def tile(height, width, level):
    """An image of one level whose only object is the whole image, of that level as its class."""
    box = np.array([[0, 0, width, height]], np.float32)
    return np.full((height, width, 3), level, np.uint8), Objects(np.array([level], np.float32), box, [None])


def empty():
    return Objects(np.zeros(0, np.float32), np.zeros((0, 4), np.float32), [])


@given(
    seed=st.integers(0, 2**32),
    size=st.integers(9, 40),
    parts=st.lists(st.tuples(st.floats(0.1, 1), st.booleans()), min_size=4, max_size=4),
)
@settings(max_examples=40, deadline=None)
def test_mosaic_places_four_images_and_their_boxes(seed, size, parts):
    shapes = [(size, max(int(p * size), 1)) if tall else (max(int(p * size), 1), size) for p, tall in parts]
    tiles = [tile(height, width, 10 * (i + 1)) for i, (height, width) in enumerate(shapes)]
    canvas, objects = mosaic(tiles, size, np.random.default_rng(seed))
    assert canvas.shape == (2 * size, 2 * size, 3) and len(objects) == 4
    rest = np.ones(canvas.shape[:2], bool)
    for level, (x1, y1, x2, y2) in zip((10, 20, 30, 40), objects.boxes_xyxy.astype(int), strict=True):
        expected = np.zeros(canvas.shape[:2], bool)
        expected[y1:y2, x1:x2] = True
        assert np.array_equal(canvas[..., 0] == level, expected)
        rest &= ~expected
    assert np.all(canvas[rest] == PAD_GREY)
    boxes = objects.boxes_xyxy
    x, y = boxes[0, 2], boxes[0, 3]  # all four meet in one point of the middle half
    assert (boxes[1, 0], boxes[1, 3], boxes[2, 2], boxes[2, 1], boxes[3, 0], boxes[3, 1]) == (x, y, x, y, x, y)
    assert size // 2 <= x <= 1.5 * size and size // 2 <= y <= 1.5 * size


def test_mosaic_of_backgrounds():
    tiles = [(np.zeros((10, 7, 3), np.uint8), empty())] * 4
    canvas, objects = mosaic(tiles, 10, np.random.default_rng(0))
    assert canvas.shape == (20, 20, 3) and len(objects) == 0


def scene(width=60):
    image = np.zeros((40, width, 3), np.uint8)
    image[5:15, 4:14] = (9, 99, 199)
    square = np.array([[4, 5], [13, 5], [13, 14], [4, 14]], np.float32)
    boxes = np.array([[20, 30, 24, 34], [4, 5, 14, 15]], np.float32)
    return image, Objects(np.array([1, 7], np.float32), boxes, [None, square])


def test_copy_paste_adds_a_mirrored_copy_of_the_right_object():
    image, objects = scene()
    pasted, found = copy_paste(image, objects, 1.0, np.random.default_rng(0))
    assert found.classes.tolist() == [1, 7, 7]
    assert found.boxes_xyxy[2].tolist() == [46, 5, 56, 15]
    assert np.array_equal(pasted[:, ::-1][5:15, 4:14], image[5:15, 4:14])
    assert np.array_equal(pasted[:, :40], image[:, :40]) and not image[:, 20:].any()


def test_copy_paste_hides_nothing():
    image, objects = scene(width=20)  # the copy would cover the object itself
    pasted, found = copy_paste(image, objects, 1.0, np.random.default_rng(0))
    assert pasted is image and found is objects


@pytest.mark.parametrize(("part", "copies"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_copy_paste_tries_a_part_of_the_outlined_objects(part, copies):
    corners = np.array([[0, 0], [6, 0], [6, 6], [0, 6]], np.float32)
    polygons = [corners + np.array((10, 10 * i), np.float32) for i in range(4)]
    boxes = np.array([[10, 10 * i, 16, 10 * i + 6] for i in range(4)], np.float32)
    objects = Objects(np.arange(4, dtype=np.float32), boxes, polygons)
    image = np.zeros((40, 90, 3), np.uint8)
    assert len(copy_paste(image, objects, part, np.random.default_rng(3))[1]) == 4 + copies


def test_copy_paste_without_outlines_draws_nothing():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    image = np.zeros((10, 10, 3), np.uint8)
    assert copy_paste(image, empty(), 1.0, rng)[0] is image
    assert rng.bit_generator.state == before


def test_mixup_blends_pixels_and_joins_objects():
    image, objects = mixup(tile(8, 12, 100), tile(8, 12, 200), np.random.default_rng(0))
    assert image.dtype == np.uint8 and 120 < image[0, 0, 0] < 180 and len(np.unique(image)) == 1
    assert objects.classes.tolist() == [100, 200]
