import multiprocessing

import cv2
import numpy as np
import pytest
import torch

from utils.data.loader import BatchOrder, make_loader
from utils.data.scan import Sample
from utils.errors import UserError
from utils.training.hyp import Hyp


@pytest.fixture
def samples(tmp_path):
    """Seven images, each of another shape and grey level; image i has i objects."""
    made = []
    for i in range(7):
        height, width = 30 + 8 * i, 60
        path = tmp_path / f"{i}.png"
        path.write_bytes(cv2.imencode(".png", np.full((height, width, 3), 20 * i, np.uint8))[1].tobytes())
        labels = np.array([(i, 0.5, 0.5, 0.2 + 0.1 * k, 0.3) for k in range(i)], np.float32).reshape(-1, 5)
        made.append(Sample(path, (height, width), labels, [None] * i))
    return made


def contents(loader):
    return [(batch.images, batch.targets, batch.paths, batch.shapes) for batch in loader]


def equal(first, second):
    return len(first) == len(second) and all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and a[2:] == b[2:]
        for a, b in zip(first, second, strict=True)
    )


def test_batches_have_all_images_and_their_targets(samples):
    loader = make_loader(samples, imgsz=64, batch_size=3, stride=32)
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    assert [len(batch.paths) for batch in batches] == [3, 3, 1]
    assert [path for batch in batches for path in batch.paths] == [str(s.path) for s in samples]
    for batch in batches:
        count = len(batch.paths)
        assert batch.images.shape == (count, 3, 64, 64) and batch.images.dtype == torch.uint8
        assert batch.targets.dtype == torch.float32 and batch.targets.shape[1] == 6 and len(batch.shapes) == count
        for i, path in enumerate(batch.paths):
            classes = batch.targets[batch.targets[:, 0] == i, 1]
            number = next(k for k, s in enumerate(samples) if str(s.path) == path)
            assert classes.tolist() == [number] * number


@pytest.mark.parametrize("hyp", [None, Hyp(mixup=0.3, degrees=5)])
@pytest.mark.parametrize("rect", [False, True])
def test_workers_change_nothing(samples, hyp, rect):
    options = {"imgsz": 64, "batch_size": 2, "stride": 32, "hyp": hyp, "rect": rect, "shuffle": True, "seed": 5}
    alone, helped = (make_loader(samples, workers=workers, **options) for workers in (0, 2))
    for epoch in (0, 1, 2):
        alone.set_epoch(epoch)
        helped.set_epoch(epoch)
        assert equal(contents(alone), contents(helped))


def test_epochs_differ_and_repeat(samples):
    loader = make_loader(samples, imgsz=64, batch_size=7, stride=32, hyp=Hyp(), shuffle=True, workers=2)
    first = contents(loader)
    loader.set_epoch(1)
    second = contents(loader)
    loader.set_epoch(0)
    assert equal(first, contents(loader))
    assert first[0][2] != second[0][2]
    assert sorted(first[0][2]) == sorted(second[0][2])
    order = [second[0][2].index(path) for path in first[0][2]]
    assert not torch.equal(first[0][0], second[0][0][order])  # the same image changes in another way


def test_workers_live_on(samples):
    loader = make_loader(samples, imgsz=32, batch_size=2, stride=32, workers=2)
    list(loader)
    before = {process.pid for process in multiprocessing.active_children()}
    loader.set_epoch(1)
    list(loader)
    assert before and before == {process.pid for process in multiprocessing.active_children()}


def test_spawned_workers(samples, monkeypatch):
    options = {"imgsz": 32, "batch_size": 4, "stride": 32, "hyp": Hyp()}
    loader = make_loader(samples, workers=1, **options)
    loader._batches.multiprocessing_context = "spawn"
    assert equal(contents(loader), contents(make_loader(samples, **options)))


def test_rectangular_batches_are_shuffled_whole(samples):
    loader = make_loader(samples, imgsz=64, batch_size=2, stride=32, rect=True, pad=0.5, shuffle=True, seed=1)
    plain = make_loader(samples, imgsz=64, batch_size=2, stride=32, rect=True, pad=0.5)
    found = [batch.paths for batch in loader]
    expected = [batch.paths for batch in plain]
    assert found != expected and sorted(found) == sorted(expected)
    assert [tuple(batch.images.shape[2:]) for batch in plain] == [(64, 96), (96, 96), (96, 96), (96, 96)]
    ratios = [s.shape[0] / s.shape[1] for s in plain.dataset.samples]
    assert ratios == sorted(ratios)


def test_order_of_batches():
    order = BatchOrder(5, 2, shuffle=True, keep_batches=False, seed=0)
    order.epoch = 4
    batches = list(order)
    assert len(order) == 3 and [len(batch) for batch in batches] == [2, 2, 1]
    assert sorted(index for batch in batches for _, index in batch) == list(range(5))
    assert {epoch for batch in batches for epoch, _ in batch} == {4}
    assert batches == list(order)
    other = BatchOrder(5, 2, shuffle=True, keep_batches=False, seed=1)
    other.epoch = 4
    assert batches != list(other)


def test_one_image_and_a_large_batch(samples):
    loader = make_loader(samples[3:4], imgsz=64, batch_size=16, stride=32, hyp=Hyp(), shuffle=True, workers=8)
    (batch,) = loader
    assert batch.images.shape == (1, 3, 64, 64) and len(loader) == 1


def test_images_without_objects(samples):
    (batch,) = make_loader(samples[:1], imgsz=64, batch_size=1, stride=32)
    assert batch.targets.shape == (0, 6)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_vanished_image_is_told_in_one_message(samples, workers):
    samples[4].path.unlink()
    loader = make_loader(samples, imgsz=64, batch_size=2, stride=32, workers=workers)
    with pytest.raises(UserError, match=r"^[^\n]*4\.png: cannot read[^\n]*$"):
        list(loader)


def test_no_samples():
    with pytest.raises(UserError, match="no images"):
        make_loader([], imgsz=64, batch_size=2, stride=32)


def test_main_process_keeps_its_threads_and_random_state(samples):
    threads, state = (cv2.getNumThreads(), torch.get_num_threads()), torch.get_rng_state()
    list(make_loader(samples, imgsz=32, batch_size=2, stride=32, hyp=Hyp(), shuffle=True, workers=2))
    assert threads == (cv2.getNumThreads(), torch.get_num_threads())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_pinned_for_cuda(samples, workers):
    batch = next(iter(make_loader(samples, imgsz=32, batch_size=2, stride=32, workers=workers)))
    assert batch.images.is_pinned() and batch.targets.is_pinned()
