import math

import cv2
import numpy as np
import pytest
import torch

from utils.boxes import cxcywh_to_xyxy, unletterbox
from utils.data.dataset import DetectionDataset, rectangular_batches
from utils.data.scan import Sample
from utils.errors import UserError
from utils.training.hyp import Hyp


def sample(folder, name, shape, boxes):
    """A black image with white boxes (xyxy in pixels) and their labels."""
    height, width = shape
    image = np.zeros((height, width, 3), np.uint8)
    rows = []
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 255
        rows.append((0, (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height))
    path = folder / name
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return Sample(path, shape, np.array(rows, np.float32).reshape(-1, 5), [None] * len(rows))


def boxes_in_pixels(item):
    height, width = item.image.shape[1:]
    return cxcywh_to_xyxy(item.labels[:, 1:]) * torch.tensor([width, height, width, height])


def extent(item):
    rows, columns = torch.nonzero(item.image[1] > 180, as_tuple=True)
    return torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=torch.float32)


@pytest.mark.parametrize("shape", [(40, 90), (97, 31), (64, 64), (300, 211)])
def test_plain_item_is_the_whole_image_and_its_geometry_leads_back(tmp_path, shape):
    height, width = shape
    box = (width // 3, height // 4, width * 2 // 3, height * 3 // 4)
    dataset = DetectionDataset([sample(tmp_path, "a.png", shape, [box])], imgsz=96)
    item = dataset[0, 0]
    assert item.image.shape == (3, 96, 96) and item.image.dtype == torch.uint8
    assert item.labels.dtype == torch.float32 and item.path == str(tmp_path / "a.png")
    assert (boxes_in_pixels(item)[0] - extent(item)).abs().max() <= 1
    assert item.shape.original == shape
    back = unletterbox(boxes_in_pixels(item), shape, item.shape.ratio, item.shape.pad)
    assert torch.allclose(back, torch.tensor([box], dtype=torch.float32), atol=1e-2)
    left, top = item.shape.pad
    assert (left == 0) or (top == 0)
    assert torch.all(item.image[:, :top] == 114) and torch.all(item.image[:, :, :left] == 114)


def test_plain_item_of_odd_padding_has_no_half_pixel(tmp_path):
    dataset = DetectionDataset([sample(tmp_path, "a.png", (33, 64), [(8, 4, 40, 30)])], imgsz=64)
    item = dataset[0, 0]
    assert item.shape.pad == (0, 15) and item.shape.ratio == (1, 1)
    assert torch.allclose(boxes_in_pixels(item)[0], extent(item), atol=1e-3)


def test_plain_item_with_published_pads_has_the_half_pixel(tmp_path):
    samples = [sample(tmp_path, "a.png", (33, 64), [(8, 4, 40, 30)])]
    true, published = (DetectionDataset(samples, imgsz=64, published_pads=p)[0, 0] for p in (False, True))
    assert published.shape.pad == (0, 15.5) and torch.equal(published.image, true.image)
    half = torch.tensor([0, 0.5, 0, 0.5])
    assert torch.allclose(boxes_in_pixels(published), boxes_in_pixels(true) + half, atol=1e-3)


def test_plain_item_has_a_ratio_for_each_axis(tmp_path):
    dataset = DetectionDataset([sample(tmp_path, "a.png", (101, 300), [(30, 10, 100, 90)])], imgsz=64)
    assert dataset[0, 0].shape.ratio == (64 / 300, 22 / 101)


def test_background_image(tmp_path):
    samples = [sample(tmp_path, "a.png", (20, 30), [])]
    for hyp in (None, Hyp(), Hyp(mosaic=0, degrees=10)):
        assert DetectionDataset(samples, imgsz=32, hyp=hyp)[0, 0].labels.shape == (0, 5)


@pytest.mark.parametrize(("mosaic", "nine"), [(0, 0), (1, 0), (1, 1)])
def test_augmented_item_depends_on_seed_epoch_index_and_draw_only(tmp_path, mosaic, nine):
    samples = [sample(tmp_path, f"{i}.png", (40 + 9 * i, 70), [(5, 5, 40, 30)]) for i in range(4)]
    hyp = Hyp(mosaic=mosaic, mixup=0.5, degrees=5)
    first = DetectionDataset(samples, imgsz=64, hyp=hyp, nine=nine, seed=3)
    second = DetectionDataset(samples, imgsz=64, hyp=hyp, nine=nine, seed=3)
    other = DetectionDataset(samples, imgsz=64, hyp=hyp, nine=nine, seed=4)
    global_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    item = first[2, 1]
    first[2, 0]
    assert torch.equal(item.image, second[2, 1].image) and torch.equal(item.labels, second[2, 1].labels)
    for different in (first[3, 1], other[2, 1], first[2, 2], first[2, 1, 1]):
        assert not torch.equal(item.image, different.image)
    assert np.array_equal(global_state[0], np.random.get_state()[1])
    assert torch.equal(global_state[1], torch.get_rng_state())


def test_augmented_item_is_its_own_original(tmp_path):
    dataset = DetectionDataset([sample(tmp_path, "a.png", (50, 80), [(5, 5, 60, 40)])], imgsz=64, hyp=Hyp())
    shape = dataset[0, 0].shape
    assert (shape.original, shape.ratio, shape.pad) == ((64, 64), (1, 1), (0, 0))


@pytest.mark.parametrize(
    ("hyp", "nine"),
    [(Hyp(), 0), (Hyp(mosaic=0), 0), (Hyp(copy_paste=1, mixup=1, flipud=0.5), 0), (Hyp(degrees=10, shear=5), 0)],
)
def test_augmented_boxes_are_inside_and_around_something_white(tmp_path, hyp, nine):
    samples = [sample(tmp_path, f"{i}.png", (60 + 30 * i, 100), [(10, 10, 60, 50)]) for i in range(3)]
    dataset = DetectionDataset(samples, imgsz=75, hyp=hyp)  # odd size
    seen = 0
    for epoch in range(8):
        item = dataset[epoch, epoch % 3]
        assert item.image.shape == (3, 75, 75)
        assert torch.all(item.labels[:, 1:] > 0)
        boxes = boxes_in_pixels(item)
        assert torch.all(boxes >= -1e-3) and torch.all(boxes <= 75 + 1e-3)
        for x1, y1, x2, y2 in boxes.round().int().tolist():
            middle = item.image[:, (y1 + y2) // 2, (x1 + x2) // 2]
            assert middle.float().mean() > 60
            seen += 1
    assert seen >= 8


def test_one_image_makes_a_mosaic(tmp_path):
    dataset = DetectionDataset([sample(tmp_path, "a.png", (50, 80), [(5, 5, 60, 40)])], imgsz=64, hyp=Hyp(scale=0))
    counts = [len(dataset[epoch, 0].labels) for epoch in range(10)]
    assert max(counts) > 1


def test_outlines_are_used_without_a_mosaic(tmp_path):
    height, width = 64, 64
    diamond = np.array([[0.5, 0.2], [0.8, 0.5], [0.5, 0.8], [0.2, 0.5]], np.float32)
    boxed = sample(tmp_path, "a.png", (height, width), [(13, 13, 51, 51)])
    outlined = Sample(boxed.path, boxed.shape, boxed.labels, [diamond])
    hyp = Hyp(mosaic=0, degrees=45, scale=0, translate=0)
    wide, tight = (DetectionDataset([s], imgsz=64, hyp=hyp)[0, 0].labels[0, 3] for s in (boxed, outlined))
    assert tight < wide


@pytest.mark.parametrize("pad", [0.0, 0.5])
def test_rectangular_batches_follow_the_formula(tmp_path, pad):
    shapes = [(480, 640), (640, 480), (300, 600), (100, 640), (500, 500), (640, 100), (480, 640)]
    samples = [Sample(tmp_path / str(i), shape, np.zeros((0, 5), np.float32), []) for i, shape in enumerate(shapes)]
    ordered, found = rectangular_batches(samples, imgsz=640, batch_size=2, stride=32, pad=pad)
    assert [s.path.name for s in ordered] == ["3", "2", "0", "6", "4", "1", "5"]  # equal ones stay in order
    expected = [(0.5, 1), (0.75, 1), (1, 1), (1, 100 / 640)]
    assert found == [tuple(math.ceil(x * 640 / 32 + pad) * 32 for x in sides) for sides in expected]


@pytest.mark.parametrize("hyp", [None, Hyp(mosaic=1)])
def test_rectangular_items_have_the_shape_of_their_batch(tmp_path, hyp):
    shapes = [(40, 100), (50, 100), (100, 70), (100, 90)]
    samples = [sample(tmp_path, f"{i}.png", shape, [(5, 5, 50, 35)]) for i, shape in enumerate(shapes)]
    ordered, batches = rectangular_batches(samples, imgsz=100, batch_size=2, stride=16, pad=0)
    dataset = DetectionDataset(ordered, imgsz=100, hyp=hyp, batch_shapes=batches, batch_size=2)
    assert batches == [(64, 112), (112, 96)]
    for i in range(4):
        assert tuple(dataset[0, i].image.shape[1:]) == batches[i // 2]
    if hyp is None:
        assert (boxes_in_pixels(dataset[0, 0])[0] - extent(dataset[0, 0])).abs().max() < 1e-3


def test_a_vanished_image_is_named(tmp_path):
    gone = sample(tmp_path, "a.png", (20, 30), [])
    gone.path.unlink()
    with pytest.raises(UserError, match=r"a\.png"):
        DetectionDataset([gone], imgsz=32)[0, 0]
