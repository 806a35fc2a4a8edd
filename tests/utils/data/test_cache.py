import logging
import os

import cv2
import numpy as np
import pytest

from utils.data import cache
from utils.data.cache import DiskCache, RamCache, open_images
from utils.data.packed import PackedSamples
from utils.data.scan import Sample
from utils.errors import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    path = tmp_path / "program" / ".cache"
    monkeypatch.setattr(cache, "CACHE_FOLDER", path)
    return path


def write(path, height, width, level):
    rows, columns = np.mgrid[:height, :width]
    image = np.stack((rows + level, columns, rows * 0), axis=2).astype(np.uint8)
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())


@pytest.fixture
def samples(tmp_path):
    made = []
    (tmp_path / "images").mkdir()
    for i, (height, width) in enumerate([(40, 30), (20, 61), (64, 64), (100, 90)]):
        path = tmp_path / "images" / f"{i}.png"
        write(path, height, width, i)
        made.append(Sample(path, (height, width), np.zeros((0, 5), np.float32), []))
    return PackedSamples(made)


def pixels(reader, count=4):
    return [np.array(reader(i)) for i in range(count)]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize("augment", [True, False])
def test_a_cache_gives_the_same_images_without_reading_files(samples, kind, augment, monkeypatch):
    files = open_images(samples, 64, augment=augment)
    expected = pixels(files)
    cached = open_images(samples, 64, augment=augment, cache=kind)
    assert isinstance(cached, RamCache if kind == "ram" else DiskCache)
    monkeypatch.setattr(cache, "read_resized", lambda *_: pytest.fail("a file was read"))
    assert same(pixels(cached), expected)
    for i in range(4):
        assert cached.shape(i) == files.shape(i) == expected[i].shape[:2]
        with pytest.raises(ValueError, match="read-only"):
            cached(i)[0, 0, 0] = 1


def test_the_disk_cache_is_used_again_and_lies_outside_the_data_set(samples, folder, tmp_path, monkeypatch):
    before = sorted(p.name for p in (tmp_path / "images").iterdir())
    expected = pixels(open_images(samples, 64, augment=True, cache="disk"))
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == before
    assert len([p for p in folder.rglob("*") if p.is_file()]) == 4
    monkeypatch.setattr(cache, "read_resized", lambda *_: pytest.fail("a file was read"))
    assert same(pixels(open_images(samples, 64, augment=True, cache="disk")), expected)


def test_a_changed_image_another_size_and_another_way_of_resizing_are_never_served_stale(samples):
    first = pixels(open_images(samples, 64, augment=True, cache="disk"))
    path = samples.path(1)
    stat = path.stat()
    write(path, 20, 61, 99)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    found = pixels(open_images(samples, 64, augment=True, cache="disk"))
    assert not np.array_equal(found[1], first[1]) and np.array_equal(found[0], first[0])
    assert same(found, pixels(open_images(samples, 64, augment=True)))
    for size, augment in ((48, True), (64, False)):
        fresh = open_images(samples, size, augment=augment)
        assert same(pixels(open_images(samples, size, augment=augment, cache="disk")), pixels(fresh))


def test_a_damaged_or_removed_file_of_the_disk_cache_is_not_used(samples, folder):
    disk = open_images(samples, 64, augment=True, cache="disk")
    expected = pixels(open_images(samples, 64, augment=True))
    for file in (p for p in folder.rglob("*") if p.is_file()):
        file.write_bytes(file.read_bytes()[:-5])
    assert same(pixels(disk), expected)
    assert same(pixels(open_images(samples, 64, augment=True, cache="disk")), expected)
    for file in (p for p in folder.rglob("*") if p.is_file()):
        file.unlink()
    assert same(pixels(disk), expected)


def test_ram_that_does_not_suffice_is_told_and_not_taken(samples, monkeypatch, caplog):
    needed = sum(image.nbytes for image in pixels(open_images(samples, 64, augment=True)))
    monkeypatch.setattr(cache, "available_memory", lambda: int(2.5 * needed))
    assert isinstance(open_images(samples, 64, augment=True, cache="ram", copies=2), RamCache)
    monkeypatch.setattr(cache, "RamCache", lambda *_: pytest.fail("memory was taken"))
    with caplog.at_level(logging.WARNING):
        files = open_images(samples, 64, augment=True, cache="ram", copies=3)
    assert "--cache ram: 4 images need" in caplog.text and "--cache disk" in caplog.text
    assert len(pixels(files)) == 4


def test_disk_space_that_does_not_suffice_is_told(samples, monkeypatch, caplog, folder):
    monkeypatch.setattr(cache, "_free_disk", lambda _: 1000)
    with caplog.at_level(logging.WARNING):
        open_images(samples, 64, augment=True, cache="disk")
    assert "--cache disk: 4 images need" in caplog.text and not folder.exists()


def test_a_cache_folder_that_cannot_be_written_is_told_once(samples, folder, caplog):
    folder.parent.mkdir()
    folder.write_text("a file in its place")
    with caplog.at_level(logging.WARNING):
        disk = open_images(samples, 64, augment=True, cache="disk")
    assert caplog.text.count("cannot be written") == 1
    assert same(pixels(disk), pixels(open_images(samples, 64, augment=True)))


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_bad_image_is_named(samples, kind):
    samples.path(2).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"2\.png"):
        open_images(samples, 64, augment=True, cache=kind)


def test_available_memory_heeds_the_limit_of_a_container(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:  5000 kB\n")
    monkeypatch.setattr(cache, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(cache, "_CGROUP", tmp_path)
    assert cache.available_memory() == 5000 * 1024
    (tmp_path / "memory.current").write_text("1000\n")
    for limit, free in (("max\n", 5000 * 1024), ("101000\n", 100_000)):
        (tmp_path / "memory.max").write_text(limit)
        assert cache.available_memory() == free
    (tmp_path / "meminfo").unlink()
    assert cache.available_memory() == 100_000
