import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from utils.data import extra
from utils.data.dataset import DetectionDataset
from utils.training.hyp import Hyp


class Brighter:
    """Adds a random number, as a transform of albumentations would be called."""

    def __init__(self, p):
        assert p == 1

    def set_random_seed(self, seed):
        self.added = np.random.default_rng(seed).integers(1, 9)

    def __call__(self, image):
        return {"image": image + np.array([self.added, 0, 0], np.uint8)}


@pytest.fixture
def package(monkeypatch):
    names = dict.fromkeys(("Blur", "MedianBlur", "ToGray", "CLAHE"), Brighter)
    monkeypatch.setitem(sys.modules, "albumentations", SimpleNamespace(**names))
    monkeypatch.setattr(extra.metadata, "version", lambda name: {"albumentations": "2.0.8"}[name])
    for cached in (extra.installed, extra._package):
        cached.cache_clear()
    yield
    for cached in (extra.installed, extra._package):
        cached.cache_clear()


def test_one_image_in_a_hundred_for_each_transform(package):
    image = np.zeros((2, 3, 3), np.uint8)
    rng = np.random.default_rng(0)
    changed = [extra.apply_extra(image, rng) for _ in range(5000)]
    count = sum(bool(found.any()) for found in changed)
    assert 140 < count < 260  # 4 %
    assert all((found[..., :2] == 0).all() for found in changed)  # red, as the package wants it first, is last here


def test_the_change_depends_on_the_generator_alone(package):
    image = np.zeros((2, 3, 3), np.uint8)
    first, second = ([extra.apply_extra(image, rng) for _ in range(300)] for rng in map(np.random.default_rng, (1, 1)))
    assert np.array_equal(first, second) and np.any(first)


def test_other_random_numbers_stay_the_same(package, tmp_path, monkeypatch):
    import cv2

    from utils.data.scan import Sample

    path = tmp_path / "a.png"
    path.write_bytes(cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8))[1])
    sample = Sample(path, (30, 40), np.array([[0, 0.5, 0.5, 0.5, 0.5]], np.float32), [None])
    dataset = DetectionDataset([sample], imgsz=32, hyp=Hyp())
    labels = [dataset[epoch, 0].labels for epoch in range(5)]
    monkeypatch.setattr(extra, "_PROBABILITY", 1)
    changed = [dataset[epoch, 0] for epoch in range(5)]
    assert all(np.array_equal(a, b.labels) for a, b in zip(labels, changed, strict=True))


def test_use_is_told(package, caplog):
    with caplog.at_level(logging.INFO):
        extra.describe()
    assert len(caplog.records) == 1 and "Blur, MedianBlur, ToGray, CLAHE" in caplog.text


@pytest.mark.parametrize("version", [None, "1.4.0", "3.0.0"])
def test_nothing_without_the_package(monkeypatch, caplog, version):
    def find(name):
        if version is None:
            raise extra.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(extra.metadata, "version", find)
    extra.installed.cache_clear()
    with caplog.at_level(logging.INFO):
        extra.describe()
    assert not extra.installed() and not caplog.records
    extra.installed.cache_clear()
