import numpy as np
import pytest

import utils.data.scan
from utils.data import shapes
from utils.data.scan import scan_samples
from utils.data.shapes import CLASSES, draw_picture, make_shapes
from utils.errors import UserError


def picture(*seed):
    return draw_picture(np.random.default_rng(seed))


def test_pictures_are_repeatable_and_different():
    image, boxes = picture(0, 0, 1)
    again, boxes_again = picture(0, 0, 1)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(boxes, boxes_again)
    other, _ = picture(0, 0, 2)
    assert other.shape != image.shape or (other != image).any()


def test_properties_of_many_pictures():
    pictures = [picture(7, 0, i) for i in range(80)]
    boxes = np.concatenate([b for _, b in pictures])
    assert {image.shape[:2] for image, _ in pictures} == set(shapes.SIZES)
    assert all(image.dtype == np.uint8 and image.std() > 3 for image, _ in pictures)
    assert set(boxes[:, 0]) == set(range(len(CLASSES)))
    assert np.bincount(boxes[:, 0].astype(int)).min() > 20
    counts = [len(b) for _, b in pictures]
    assert 0 in counts
    assert max(counts) >= 5
    assert (boxes[:, 3:] > 0).all()
    assert (boxes[:, 1:3] - boxes[:, 3:] / 2 >= -1e-9).all()
    assert (boxes[:, 1:3] + boxes[:, 3:] / 2 <= 1 + 1e-9).all()
    longest = boxes[:, 3:].max(axis=1)
    assert longest.min() < 0.08
    assert longest.max() > 0.4


def test_box_is_the_extent_of_the_true_pixels():
    mask = np.zeros((10, 20), bool)
    mask[3, 4] = mask[6, 11] = True
    assert shapes._tight_box(mask) == (8 / 20, 5 / 10, 8 / 20, 4 / 10)


@pytest.mark.parametrize("cls", range(len(CLASSES)))
def test_boxes_fit_what_is_painted(cls, monkeypatch):
    """On a black canvas without clutter, light and noise the box must hold all bright pixels and no more."""
    monkeypatch.setattr(shapes, "_background", lambda rng, h, w: np.zeros((h, w, 3), np.float32))
    monkeypatch.setattr(shapes, "_photograph", lambda rng, canvas: canvas)
    monkeypatch.setattr(shapes, "_surface", lambda rng, solid, *_: np.full((*solid.shape, 3), 255, np.float32))
    monkeypatch.setattr(shapes, "_SHAPES", (shapes._SHAPES[cls],))
    painted = []
    paint = shapes._paint
    monkeypatch.setattr(shapes, "_paint", lambda *args: painted.append(args) or paint(*args))
    tested = 0
    for seed in range(60):
        painted.clear()
        image, boxes = draw_picture(np.random.default_rng(seed))
        if len(boxes) != 1 or len(painted) != 1:  # of a second object that is covered a bright rest may be seen
            continue
        height, width = image.shape[:2]
        bright = image[..., 0] > 0.5 * image.max()  # the half of an antialiased edge, also of a translucent object
        if bright.sum() == 0:
            continue
        rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
        _, cx, cy, w, h = boxes[0]
        found = [columns[0], columns[-1] + 1, rows[0], rows[-1] + 1]
        box = [(cx - w / 2) * width, (cx + w / 2) * width, (cy - h / 2) * height, (cy + h / 2) * height]
        np.testing.assert_allclose(box, found, atol=1.01)
        tested += 1
    assert tested >= 3


def test_hidden_objects_have_no_label(monkeypatch):
    """Four objects of one size, each painted over the last one at the same place."""
    monkeypatch.setattr(shapes, "_random_radius", lambda rng, side: 40.0)
    monkeypatch.setattr(shapes, "_SHAPES", (shapes._wedge,))

    class Centred(np.random.Generator):
        def uniform(self, low=0.0, high=1.0, size=None):
            return np.array([0.5, 0.5]) if (low, high) == (0.04, 0.96) else super().uniform(low, high, size)

        def integers(self, low, high=None, **kwargs):
            return 4 if (low, high) == (1, 8) else super().integers(low, high, **kwargs)

    def labelled(minimum):
        monkeypatch.setattr(shapes, "MIN_VISIBLE", minimum)
        pictures = [draw_picture(Centred(np.random.PCG64(seed)))[1] for seed in range(12)]
        return [len(boxes) for boxes in pictures if len(boxes)]

    all_seen = labelled(0.0)
    assert max(all_seen) == 4
    assert sum(labelled(0.3)) < 0.7 * sum(all_seen)
    assert set(labelled(0.99)) == {1}  # only the last one is whole


def test_data_set_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(utils.data.scan, "CACHE_FOLDER", tmp_path / "cache")
    make_shapes(tmp_path / "a", train=6, val=3, test=2)
    make_shapes(tmp_path / "b", train=4, val=3, test=0)
    assert len(scan_samples((tmp_path / "a/images/train",), len(CLASSES))) == 6
    assert len(list((tmp_path / "a/images/test").iterdir())) == 2
    for name in ("images/train/000003.jpg", "labels/train/000003.txt", "images/val/000002.jpg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a/images/val/000000.jpg").read_bytes() != (tmp_path / "a/images/train/000000.jpg").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        make_shapes(tmp_path / "a")


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def fail(rng):
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "draw_picture", fail)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / "a", train=2)
    assert not list(tmp_path.iterdir())
