import multiprocessing
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from utils.data.loader import make_loader
from utils.data.scan import Sample
from utils.data.shapes import make_shapes
from utils.errors import UserError
from utils.files import PROGRAM_ROOT
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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rect": True},
        {"hyp": Hyp(mixup=0.3, degrees=5)},
        {"hyp": Hyp(), "nine": 0.5},
        {"hyp": Hyp(), "rect": True},
        {"hyp": Hyp(), "quad": True},
    ],
)
def test_workers_change_nothing(samples, options):
    options = {"imgsz": 64, "batch_size": 4, "stride": 32, "shuffle": True, "seed": 5, **options}
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


def test_workers_end_with_their_program(tmp_path):
    """Also where they did not hear that the loader is done, as after a pause of the whole program."""
    make_shapes(tmp_path / "set", train=3, val=1, test=1)
    script = tmp_path / "program.py"
    script.write_text(
        "from pathlib import Path\n"
        "from utils.data.loader import make_loader\n"
        "from utils.data.scan import scan_samples\n"
        f"samples = scan_samples([Path({str(tmp_path / 'set/images/train')!r})], nc=99, require_labels=False)\n"
        "loader = make_loader(samples, imgsz=64, batch_size=2, stride=32, workers=2)\n"
        "print(len(list(loader)))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(PROGRAM_ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout[-2:]) == (0, "2\n"), done.stderr


@pytest.mark.parametrize("cache", [None, "ram"])
def test_spawned_workers(samples, cache):
    options = {"imgsz": 32, "batch_size": 4, "stride": 32, "hyp": Hyp(), "shuffle": True}
    loader = make_loader(samples, workers=1, cache=cache, **options)
    loader._batches.multiprocessing_context = "spawn"
    assert equal(contents(loader), contents(make_loader(samples, **options)))
    if cache:
        assert loader.dataset._images._pixels.is_shared()  # not copied for each worker


@pytest.mark.parametrize("options", [{"hyp": Hyp(mixup=0.3)}, {"rect": True, "pad": 0.5}])
@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_a_cache_changes_nothing(samples, options, cache, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.data.cache.CACHE_FOLDER", tmp_path / "cache")
    options = {"imgsz": 64, "batch_size": 3, "stride": 32, **options}
    plain = contents(make_loader(samples, **options))
    for workers in (0, 2):
        assert equal(plain, contents(make_loader(samples, cache=cache, workers=workers, **options)))


@pytest.mark.parametrize("options", [{"hyp": Hyp(mixup=0.5)}, {"rect": True, "pad": 0.5}, {"hyp": Hyp(), "quad": True}])
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_have_the_batches_of_one_process(samples, options, world):
    options = {"imgsz": 32, "batch_size": 4, "stride": 32, "shuffle": True, "seed": 3, **options}
    alone = make_loader(samples, **options)
    ranks = [
        make_loader(samples, rank=r, world_size=world, local_ranks=world, fill=True, **options) for r in range(world)
    ]
    for loader in (alone, *ranks):
        loader.set_epoch(2)
    for whole, *shares in zip(alone, *ranks, strict=True):
        assert sum(len(share.images) for share in shares if not share.filler) == len(whole.images)
        assert not whole.filler
        for rank, share in enumerate(shares):
            assert len(share.images) and share.filler == (rank >= len(whole.images))
            if share.filler:
                assert not len(share.targets)
                continue
            places = list(range(rank, len(whole.images), world))
            assert torch.equal(share.images, whole.images[rank::world]) and share.paths == whole.paths[rank::world]
            for own, place in enumerate(places):
                found, expected = (b.targets[b.targets[:, 0] == i, 1:] for b, i in ((share, own), (whole, place)))
                assert torch.equal(found, expected)


def test_ranks_validate_every_image_once(samples):
    options = {"imgsz": 32, "batch_size": 6, "stride": 32, "rect": True}
    ranks = [make_loader(samples, rank=rank, world_size=3, **options) for rank in range(3)]
    assert [len(loader) for loader in ranks] == [2, 1, 1] == [len(list(loader)) for loader in ranks]
    paths = [path for loader in ranks for batch in loader for path in batch.paths]
    assert sorted(paths) == sorted(str(s.path) for s in samples)


def test_quad_batches_double_the_side(samples):
    loader = make_loader(samples, imgsz=32, batch_size=7, stride=32, hyp=Hyp(hsv_h=0, hsv_s=0, hsv_v=0), quad=True)
    tiled = enlarged = 0
    for epoch in range(12):
        loader.set_epoch(epoch)
        (batch,) = loader
        assert batch.images.shape == (4, 3, 64, 64) and len(batch.paths) == len(batch.shapes) == 4
        items = [loader.dataset[epoch, i] for i in range(7)]
        labels = [batch.targets[batch.targets[:, 0] == i, 1:] for i in range(4)]
        for place, item in enumerate(items[4:], start=1):  # those left over
            assert torch.equal(labels[place], item.labels) and batch.paths[place] == item.path
            assert (batch.images[place, :, ::2, ::2].int() - item.image.int()).abs().float().mean() < 6
        quarters = [batch.images[0][:, y : y + 32, x : x + 32] for x in (0, 32) for y in (0, 32)]
        if torch.equal(quarters[0], items[0].image):
            tiled += 1
            assert all(torch.equal(quarter, item.image) for quarter, item in zip(quarters, items, strict=False))
            expected = torch.cat(
                [
                    torch.cat((i.labels[:, :1], (i.labels[:, 1:3] + torch.tensor(c)) / 2, i.labels[:, 3:] / 2), dim=1)
                    for i, c in zip(items, ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)), strict=False)
                ]
            )
            assert torch.allclose(labels[0], expected)
        else:
            enlarged += 1
            assert torch.equal(labels[0], items[0].labels)
    assert tiled > 1 and enlarged > 1


@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_drawn_by_weight(samples, workers):
    loader = make_loader(samples, imgsz=32, batch_size=7, stride=32, hyp=Hyp(mosaic=0), workers=workers, shuffle=True)
    list(loader)
    loader.set_weights(np.array([0, 0, 0, 1, 0, 0, 0]))
    (batch,) = loader
    assert batch.paths == [str(samples[3].path)] * 7
    assert len({image.numpy().tobytes() for image in batch.images}) > 4  # each draw changes in another way
    loader.set_weights(None)
    (batch,) = loader
    assert sorted(batch.paths) == sorted(str(s.path) for s in samples)
    with pytest.raises(ValueError, match="rectangular"):
        make_loader(samples, imgsz=32, batch_size=7, stride=32, rect=True).set_weights(np.full(7, 1 / 7))


def test_rectangular_batches_are_shuffled_whole(samples):
    loader = make_loader(samples, imgsz=64, batch_size=2, stride=32, rect=True, pad=0.5, shuffle=True, seed=1)
    plain = make_loader(samples, imgsz=64, batch_size=2, stride=32, rect=True, pad=0.5)
    found = [batch.paths for batch in loader]
    expected = [batch.paths for batch in plain]
    assert found != expected and sorted(found) == sorted(expected)
    assert [tuple(batch.images.shape[2:]) for batch in plain] == [(64, 96), (96, 96), (96, 96), (96, 96)]
    ratios = [s.shape[0] / s.shape[1] for s in plain.dataset.samples]
    assert ratios == sorted(ratios)


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
