from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data import augment
from utils.data.augment import colour_table, jitter_colours, random_affine, random_flip, resample, worth_keeping
from utils.data.canvas import Canvas
from utils.data.objects import Objects, joined


@dataclass(frozen=True)
class Still:
    hsv_h: float = 0
    hsv_s: float = 0
    hsv_v: float = 0
    degrees: float = 0
    translate: float = 0
    scale: float = 0
    shear: float = 0
    perspective: float = 0
    flipud: float = 0
    fliplr: float = 0
    mosaic: float = 0
    mixup: float = 0
    copy_paste: float = 0


class Highest:
    """A generator that always draws the upper end."""

    def uniform(self, low, high):
        return high


def drawn(height, width, box, *, outlined=False):
    """A black image with one white rectangle, and the rectangle as an object."""
    image = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    polygon = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32) if outlined else None
    return image, Objects(np.array([3], np.float32), np.array([box], np.float32), [polygon])


def extent(image):
    rows, columns = np.nonzero(image[..., 1] > 180)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def empty():
    return Objects(np.zeros(0, np.float32), np.zeros((0, 4), np.float32), [])


@given(
    seed=st.integers(0, 2**32),
    outlined=st.booleans(),
    translate=st.sampled_from([0, 0.3]),
    scale=st.sampled_from([0, 0.5]),
    degrees=st.sampled_from([0, 30]),
    shear=st.sampled_from([0, 15]),
    perspective=st.sampled_from([0, 0.001]),
)
@settings(max_examples=60)
def test_random_affine_moves_outlined_box_and_pixels_alike(
    seed, outlined, translate, scale, degrees, shear, perspective
):
    image, objects = drawn(120, 160, (50, 40, 110, 75), outlined=outlined)
    hyp = Still(translate=translate, scale=scale, degrees=degrees, shear=shear, perspective=perspective)
    moved, found = random_affine(Canvas.of(image), objects, hyp, np.random.default_rng(seed), (90, 140))
    assert moved.shape == (90, 140, 3)
    if not len(found):
        return
    box, seen = found.boxes_xyxy[0], extent(moved)
    # An outline that was cut at the border ends at its last sampled point inside.
    excess = np.concatenate((seen[:2] - box[:2], box[2:] - seen[2:]))
    assert excess.min() > -2
    if outlined or ((box[:2] > 0).all() and (box[2:] < (140, 90)).all()):  # cut corners of a turned box leave room
        assert excess.max() < 2
    assert found.classes.tolist() == [3] and found.polygons == [None]


def test_random_affine_without_changes_keeps_everything():
    image, objects = drawn(40, 60, (10, 5, 30, 25))
    moved, found = random_affine(Canvas.of(image), objects, Still(), np.random.default_rng(0), (40, 60))
    assert np.array_equal(moved, image) and np.allclose(found.boxes_xyxy, objects.boxes_xyxy)


def test_random_affine_cuts_the_middle_out_of_a_mosaic():
    image, objects = drawn(80, 80, (30, 36, 45, 60))
    moved, found = random_affine(Canvas.of(image), objects, Still(), np.random.default_rng(0), (40, 40))
    assert np.array_equal(moved, image[20:60, 20:60])
    assert np.allclose(found.boxes_xyxy, [[10, 16, 25, 40]])


def test_random_affine_rotates_counter_clockwise():
    """At +30 degrees a bar right of the centre must go up; the sign is that of OpenCV's rotation matrix."""

    image, objects = drawn(101, 101, (80, 49, 90, 52))
    moved, _ = random_affine(Canvas.of(image), objects, Still(degrees=30), Highest(), (101, 101))
    x1, y1, x2, y2 = extent(moved)
    assert (y1 + y2) / 2 < 40 and (x1 + x2) / 2 > 60


def test_random_affine_has_no_half_pixel_between_box_and_pixels():
    image, objects = drawn(100, 100, (40, 44, 61, 59))
    moved, found = random_affine(Canvas.of(image), objects, Still(scale=0.6), Highest(), (100, 100))
    light = moved[..., 0].astype(float)
    centre = [(light.sum(axis=axis) * (np.arange(100) + 0.5)).sum() / light.sum() for axis in (0, 1)]
    box = found.boxes_xyxy[0]
    assert np.allclose(centre, (box[:2] + box[2:]) / 2, atol=0.06)  # OpenCV interpolates in steps of 1/32 pixel


def test_random_affine_follows_the_outline_not_the_box():
    """A diamond turned by 45 degrees is a square of 1 / sqrt(2) the width; the corners of its box give twice that."""

    diamond = np.array([[50, 20], [80, 50], [50, 80], [20, 50]], np.float32)
    box = np.array([[20, 20, 80, 80]], np.float32)
    image = np.zeros((100, 100, 3), np.uint8)
    for polygon, width in ((diamond, 60 / 2**0.5), (None, 60 * 2**0.5)):
        objects = Objects(np.zeros(1, np.float32), box, [polygon])
        _, found = random_affine(Canvas.of(image), objects, Still(degrees=45), Highest(), (100, 100))
        assert found.boxes_xyxy[0, 2] - found.boxes_xyxy[0, 0] == pytest.approx(width, abs=0.3)


def test_random_affine_mixes_outlined_and_plain_objects_in_order():
    _, plain = drawn(60, 60, (5, 5, 20, 20))
    _, outlined = drawn(60, 60, (30, 30, 50, 45), outlined=True)
    both = joined((outlined, plain, outlined))
    _, found = random_affine(
        Canvas.of(np.zeros((60, 60, 3), np.uint8)), both, Still(), np.random.default_rng(0), (60, 60)
    )
    assert np.allclose(found.boxes_xyxy, both.boxes_xyxy, atol=0.5)


def test_random_affine_of_no_objects():
    image = np.zeros((30, 40, 3), np.uint8)
    hyp = Still(degrees=20, scale=0.5)
    moved, found = random_affine(Canvas.of(image), empty(), hyp, np.random.default_rng(1), (30, 40))
    assert moved.shape == image.shape and len(found) == 0 and found.boxes_xyxy.shape == (0, 4)


def test_worth_keeping():
    before = np.array([[0, 0, 100, 100]] * 6 + [[0, 0, 0, 0]], np.float32)
    after = np.array(
        [
            [0, 0, 40, 40],  # 16 % left
            [0, 0, 30, 30],  # 9 %
            [0, 0, 30, 30],  # 9 %, outlined
            [0, 0, 2, 100],  # too narrow
            [0, 0, 9, 9],  # 0.8 %, outlined
            [0, 0, 700, 5],  # too long
            [0, 0, 0, 0],
        ],
        np.float32,
    )
    outlined = np.array([0, 0, 1, 0, 1, 0, 0], bool)
    assert worth_keeping(before, after, outlined).tolist() == [True, False, True, False, False, False, False]


def test_resample_runs_along_the_closed_outline():
    points = resample(np.array([[0, 0], [10, 0], [10, 4]], np.float32))
    assert points.shape == (1000, 2)
    assert np.allclose(points[[0, -1]], 0) and np.allclose(points[333], (10, 0), atol=0.02)
    last_edge = points[700:]
    assert np.allclose(last_edge[:, 1], last_edge[:, 0] * 0.4, atol=1e-3)


def test_colour_table_of_gain_one_changes_nothing():
    table = colour_table(np.ones(3))
    levels = np.arange(256)
    assert np.array_equal(table[:, 0, 0], levels % 180)
    assert np.array_equal(table[:, 0, 1], levels) and np.array_equal(table[:, 0, 2], levels)


def test_colour_table_wraps_hue_and_clips_the_rest():
    table = colour_table(np.array([1.5, 2.0, 0.5]))
    assert table[150, 0].tolist() == [45, 255, 75] and table.dtype == np.uint8


def test_jitter_colours():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    rng = np.random.default_rng(5)
    before = rng.bit_generator.state
    assert jitter_colours(image, Still(), rng) is image and rng.bit_generator.state == before
    original = image.copy()
    changed = jitter_colours(image, Still(hsv_v=0.9), rng)
    assert not np.array_equal(changed, image) and np.array_equal(image, original)
    hsv, changed_hsv = (cv2.cvtColor(i, cv2.COLOR_BGR2HSV).astype(float) for i in (image, changed))
    gain = changed_hsv[..., 2] / np.maximum(hsv[..., 2], 1)
    assert gain[hsv[..., 2] > 60].std() < 0.02  # one gain for the whole image


@pytest.mark.parametrize(("flipud", "fliplr"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_random_flip_moves_box_outline_and_pixels_alike(flipud, fliplr):
    image, objects = drawn(31, 50, (4, 6, 20, 11), outlined=True)
    hyp = Still(flipud=flipud, fliplr=fliplr)
    turned, found = random_flip(image, objects, hyp, np.random.default_rng(0))
    assert np.array_equal(found.boxes_xyxy[0], extent(turned))
    points = found.polygons[0]
    assert np.array_equal(np.concatenate((points.min(0), points.max(0))), found.boxes_xyxy[0])
    assert np.array_equal(extent(image), (4, 6, 20, 11))


@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(20, 70), st.integers(20, 70)),
    scale=st.sampled_from([0.0, 0.5, 0.9]),
    degrees=st.sampled_from([0, 30]),
    perspective=st.sampled_from([0, 0.001]),
)
@settings(max_examples=60)
def test_what_is_seen_of_a_scene_is_enough(seed, shape, scale, degrees, perspective):
    """The part that is drawn and warped gives the image that warping the whole scene gives."""
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.integers(0, 256, (60, 80, 3), np.uint8), (0, 0), 1.5)
    hyp = Still(scale=scale, degrees=degrees, perspective=perspective, translate=0.3)
    matrix, _ = augment._random_matrix((60, 80), shape, hyp, rng)
    window = augment._window(matrix, (60, 80), shape)
    half = np.array(((1, 0, 0.5), (0, 1, 0.5), (0, 0, 1)))
    if window is None:
        found = augment._warp(Canvas.of(image), matrix, shape)
    else:
        found, matrix = augment.zoom_window(Canvas.of(image), window, shape)
        found = found[1:-1, 1:-1]  # beyond the edge of the window it does not look
    moved = np.linalg.inv(half) @ matrix @ half
    expected = cv2.warpPerspective(image, moved, shape[::-1], borderValue=(114,) * 3)
    if window is not None:
        expected = expected[1:-1, 1:-1]
    assert found.shape == expected.shape
    # OpenCV 4 warps in steps of 1/32 pixel
    assert np.abs(found.astype(int) - expected).max() <= (2 if cv2.__version__ >= "5" else 12)


@pytest.mark.parametrize("shape", [(40, 60), (61, 33)])
def test_a_window_is_what_was_drawn_to_half_a_pixel(shape):
    for seed in range(20):
        hyp = Still(scale=0.5, translate=0.2)
        matrix, _ = augment._random_matrix((120, 100), shape, hyp, np.random.default_rng(seed))
        left, top, right, bottom = augment._window(matrix, (120, 100), shape)
        _, whole = augment.zoom_window(Canvas.of(np.zeros((120, 100, 3), np.uint8)), (left, top, right, bottom), shape)
        size = np.array(shape[::-1])
        drawn = (np.array([[0, 0], size]) - matrix[:2, 2]) / np.diag(matrix)[:2]
        assert np.abs(drawn - [[left, top], [right, bottom]]).max() <= 1
        assert np.allclose(
            (np.array([[left, top], [right, bottom]]) * np.diag(whole)[:2] + whole[:2, 2]), [[0, 0], size]
        )


def test_turned_and_very_small_scenes_have_no_window():
    for hyp in (Still(degrees=5), Still(shear=5), Still(perspective=0.001)):
        matrix, _ = augment._random_matrix((40, 40), (40, 40), hyp, np.random.default_rng(1))
        assert augment._window(matrix, (40, 40), (40, 40)) is None
    assert augment._window(np.diag((0.3, 0.3, 1)), (40, 40), (40, 40)) is None
