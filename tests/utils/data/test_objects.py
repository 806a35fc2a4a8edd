import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.objects import Objects, joined

boxes = st.lists(st.tuples(*[st.floats(0.0625, 0.4375, width=32)] * 4), max_size=5)


@given(boxes, st.integers(20, 900), st.integers(20, 900))
@settings(max_examples=30)
def test_labels_survive_the_way_to_pixels_and_back(rows, width, height):
    labels = np.array([(i, x + w / 2, y + h / 2, w, h) for i, (x, y, w, h) in enumerate(rows)], np.float32)
    labels = labels.reshape(-1, 5)
    objects = Objects.from_labels(labels, [None] * len(labels), (width, height))
    assert objects.boxes_xyxy.dtype == np.float32
    back = objects.mapped((1, 1), (0, 0)).to_labels((width, height))
    assert back.shape == labels.shape and back.dtype == np.float32
    assert np.allclose(back, labels, atol=1e-5)


def test_mapped_mirrors_and_keeps_corners_in_order():
    polygon = np.array([[0.1, 0.2], [0.3, 0.2], [0.3, 0.6]], np.float32)
    labels = np.array([[2, 0.2, 0.4, 0.2, 0.4]], np.float32)
    mirrored = Objects.from_labels(labels, [polygon], (100, 50)).mapped((-1, 1), (100, 0))
    assert np.allclose(mirrored.boxes_xyxy, [[70, 10, 90, 30]])
    assert np.allclose(mirrored.polygons[0], [[90, 10], [70, 10], [70, 30]])


def test_to_labels_clips_to_the_image():
    objects = Objects(np.zeros(1, np.float32), np.array([[-10, 5, 30, 70]], np.float32), [None])
    assert np.allclose(objects.to_labels((40, 50)), [[0, 15 / 40, 27.5 / 50, 30 / 40, 45 / 50]])


def test_select_and_joined_keep_outlines_beside_their_boxes():
    outline = np.ones((3, 2), np.float32)
    objects = Objects(np.arange(3, dtype=np.float32), np.zeros((3, 4), np.float32), [None, outline, None])
    chosen = objects.select(np.array([False, True, True]))
    assert chosen.classes.tolist() == [1, 2] and chosen.polygons[0] is outline and chosen.polygons[1] is None
    both = joined((chosen, objects))
    assert both.classes.tolist() == [1, 2, 0, 1, 2]
    assert [points is outline for points in both.polygons] == [True, False, False, True, False]
