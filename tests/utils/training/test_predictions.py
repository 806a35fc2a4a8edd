from pathlib import Path

import numpy as np
import pytest
import torch

from utils.evaluation.consumers import BatchResult, ImageResult
from utils.evaluation.matching import GroundTruth
from utils.nms import Detections
from utils.training.events import Events
from utils.training.predictions import PredictionPictures, shows_predictions


class Kept:
    def __init__(self):
        self.told = []

    def images(self, step, name, picture):
        self.told.append((step, name, picture))


def result(stems, conf):
    """Images red all over, each with one object found."""
    pixels = torch.zeros(len(stems), 3, 40, 60, dtype=torch.uint8)
    pixels[:, 0] = 200
    found = Detections(torch.tensor([[10.0, 5.0, 50.0, 30.0]]), torch.tensor([conf]), torch.tensor([1]))
    none = GroundTruth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    images = [ImageResult(Path(f"{stem}.jpg"), (40, 60), found, none) for stem in stems]
    return BatchResult(pixels, torch.zeros(0, 6), [found] * len(stems), images)


@pytest.mark.parametrize(("interval", "epochs", "expected"), [(-1, 40, 10), (-1, 4, 4), (3, 10, 3), (0, 9, 0)])
def test_epochs_with_pictures(interval, epochs, expected):
    shown = [epoch for epoch in range(epochs) if shows_predictions(epoch, epochs, interval)]
    assert len(shown) == expected
    assert not shown or interval == 3 or shown[-1] == epochs - 1


def test_detections_are_drawn_on_rgb_images():
    tracker = Kept()
    pictures = PredictionPictures(Events([tracker]), 5, {0: "a", 1: "b"})
    batch = result(["cat", "dog"], 0.9)
    before = batch.pixels.clone()
    pictures.update(batch)
    pictures.finish()
    assert [(step, name) for step, name, _ in tracker.told] == [(5, "predictions/00_cat"), (5, "predictions/01_dog")]
    drawn = tracker.told[0][2]
    assert (drawn.shape, drawn.dtype) == ((40, 60, 3), np.uint8)
    assert drawn[38, 58].tolist() == [200, 0, 0]
    assert drawn[30, 30].tolist() != [200, 0, 0]  # the lower side of the box
    assert torch.equal(batch.pixels, before)


def test_what_is_hardly_found_is_not_drawn():
    tracker = Kept()
    PredictionPictures(Events([tracker]), 0, {0: "a", 1: "b"}).update(result(["cat"], 0.2))
    assert (tracker.told[0][2] == (200, 0, 0)).all()


def test_sixteen_images_are_enough():
    tracker = Kept()
    pictures = PredictionPictures(Events([tracker]), 0, {0: "a", 1: "b"})
    for _ in range(3):
        pictures.update(result(["cat"] * 7, 0.9))
    assert len(tracker.told) == 16
    assert len({name for _, name, _ in tracker.told}) == 16
    PredictionPictures(Events(), 0, {}).update(result(["cat"], 0.9))  # nobody to tell
