import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.canvas import Canvas, Picture
from utils.data.images import PAD_GREY
from utils.data.mosaic import copy_paste, mixup, mosaic, mosaic9
from utils.data.objects import Objects


def tile(height, width, level):
    """An image of one level whose only object is the whole image, of that level as its class."""
    box = np.array([[0, 0, width, height]], np.float32)
    return np.full((height, width, 3), level, np.uint8), Objects(np.array([level], np.float32), box, [None])


def picture(height, width, level):
    """The same, to be read later."""
    image, objects = tile(height, width, level)
    return Picture((height, width), lambda: image), objects


def empty():
    return Objects(np.zeros(0, np.float32), np.zeros((0, 4), np.float32), [])


@given(
    seed=st.integers(0, 2**32),
    size=st.integers(9, 40),
    parts=st.lists(st.tuples(st.floats(0.1, 1), st.booleans()), min_size=4, max_size=4),
)
@settings(max_examples=40)
def test_mosaic_places_four_images_and_their_boxes(seed, size, parts):
    shapes = [(size, max(int(p * size), 1)) if tall else (max(int(p * size), 1), size) for p, tall in parts]
    tiles = [picture(height, width, 10 * (i + 1)) for i, (height, width) in enumerate(shapes)]
    scene, objects = mosaic(tiles, size, np.random.default_rng(seed))
    canvas = scene.whole()
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
    tiles = [(Picture((10, 7), lambda: np.zeros((10, 7, 3), np.uint8)), empty())] * 4
    canvas, objects = mosaic(tiles, 10, np.random.default_rng(0))
    assert canvas.whole().shape == (20, 20, 3) and len(objects) == 0


@given(
    seed=st.integers(0, 2**32),
    size=st.integers(9, 40),
    parts=st.lists(st.tuples(st.floats(0.1, 1), st.booleans()), min_size=9, max_size=9),
)
@settings(max_examples=40)
def test_mosaic9_puts_eight_pictures_around_one(seed, size, parts):
    shapes = [(size, max(int(p * size), 1)) if tall else (max(int(p * size), 1), size) for p, tall in parts]
    tiles = [picture(height, width, 10 * (i + 1)) for i, (height, width) in enumerate(shapes)]
    scene, objects = mosaic9(tiles, size, np.random.default_rng(seed))
    assert scene.shape == (2 * size, 2 * size) and len(objects) == 9
    boxes = np.array([(x, y, x + p.shape[1], y + p.shape[0]) for p, (x, y) in scene.tiles])
    assert np.array_equal(objects.boxes_xyxy, boxes.clip(0, 2 * size))
    middle, *around = boxes - boxes[0, [0, 1, 0, 1]]
    w0, h0 = middle[2:]
    top, top_right, right, bottom_right, bottom, bottom_left, left, top_left = around
    assert (top[0], top[3]) == (0, 0) and (right[0], right[1]) == (w0, 0)
    assert (bottom[2], bottom[1]) == (w0, h0) and (left[2], left[3]) == (0, h0)
    assert (top_right[0], top_right[3]) == (top[2], 0) and (bottom_right[0], bottom_right[1]) == (w0, right[3])
    assert (bottom_left[2], bottom_left[1]) == (bottom[0], h0) and (top_left[2], top_left[3]) == (0, left[1])
    assert 0 <= boxes[0, 0] <= size and 0 <= boxes[0, 1] <= size  # where the middle picture starts in the window
    whole = scene.whole()
    x1, y1, x2, y2 = boxes[-1].clip(0, 2 * size)  # the last one is on top
    assert (whole[y1:y2, x1:x2] == 90).all()


def scene(width=60):
    image = np.zeros((40, width, 3), np.uint8)
    image[5:15, 4:14] = (9, 99, 199)
    square = np.array([[4, 5], [13, 5], [13, 14], [4, 14]], np.float32)
    boxes = np.array([[20, 30, 24, 34], [4, 5, 14, 15]], np.float32)
    return image, Objects(np.array([1, 7], np.float32), boxes, [None, square])


def copied(image, objects):
    canvas, found = copy_paste(Canvas.of(image), objects, 1.0, np.random.default_rng(0))
    return canvas.whole(), found


def test_copy_paste_adds_a_mirrored_copy_of_the_right_object():
    image, objects = scene()
    pasted, found = copied(image, objects)
    assert found.classes.tolist() == [1, 7, 7]
    assert found.boxes_xyxy[2].tolist() == [46, 5, 56, 15]
    assert np.array_equal(pasted[:, ::-1][5:15, 4:14], image[5:15, 4:14])
    assert np.array_equal(pasted[:, :40], image[:, :40]) and not image[:, 20:].any()


def test_copy_paste_hides_nothing():
    image, objects = scene(width=20)  # the copy would cover the object itself
    canvas = Canvas.of(image)
    pasted, found = copy_paste(canvas, objects, 1.0, np.random.default_rng(0))
    assert pasted is canvas and found is objects


@pytest.mark.parametrize(("part", "copies"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_copy_paste_tries_a_part_of_the_outlined_objects(part, copies):
    corners = np.array([[0, 0], [6, 0], [6, 6], [0, 6]], np.float32)
    polygons = [corners + np.array((10, 10 * i), np.float32) for i in range(4)]
    boxes = np.array([[10, 10 * i, 16, 10 * i + 6] for i in range(4)], np.float32)
    objects = Objects(np.arange(4, dtype=np.float32), boxes, polygons)
    image = np.zeros((40, 90, 3), np.uint8)
    assert len(copy_paste(Canvas.of(image), objects, part, np.random.default_rng(3))[1]) == 4 + copies


def test_copy_paste_without_outlines_draws_nothing():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    canvas = Canvas.of(np.zeros((10, 10, 3), np.uint8))
    assert copy_paste(canvas, empty(), 1.0, rng)[0] is canvas
    assert rng.bit_generator.state == before


def test_mixup_blends_pixels_and_joins_objects():
    image, objects = mixup(tile(8, 12, 100), tile(8, 12, 200), np.random.default_rng(0))
    assert image.dtype == np.uint8 and 120 < image[0, 0, 0] < 180 and len(np.unique(image)) == 1
    assert objects.classes.tolist() == [100, 200]
