import logging
import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import utils.data.scan
from utils.data.scan import scan_samples
from utils.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache") / "labels"
    monkeypatch.setattr(utils.data.scan, "CACHE_FOLDER", folder)
    return folder


def add(root: Path, name: str, label: str | None = "0 0.5 0.5 0.2 0.2\n", *, size=(20, 30)) -> Path:
    image = root / "images" / name
    image.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    image.write_bytes(cv2.imencode(image.suffix, pixels)[1].tobytes())
    if label is not None:
        file = root / "labels" / Path(name).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(label)
    return image


def exif(jpeg: bytes, orientation: int) -> bytes:
    """Put an EXIF header with one entry, the orientation, behind the start marker."""
    tiff = b"MM\0*\0\0\0\x08" + b"\0\x01" + b"\x01\x12\0\x03\0\0\0\x01" + bytes([0, orientation]) + b"\0\0" + b"\0" * 4
    payload = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(payload) + 2).to_bytes(2, "big") + payload + jpeg[2:]


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in root.rglob("*") if p.is_file()}


def equal(first, second):
    assert [(s.path, s.shape) for s in first] == [(s.path, s.shape) for s in second]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.labels, b.labels)
        assert a.labels.dtype == b.labels.dtype == np.float32
        assert a.labels.shape == b.labels.shape
        assert [p is None for p in a.polygons] == [p is None for p in b.polygons]
        for p, q in zip(a.polygons, b.polygons, strict=True):
            if p is not None:
                np.testing.assert_array_equal(p, q)


@pytest.fixture
def dataset(tmp_path):
    add(tmp_path, "b.png", "1 0.5 0.5 0.2 0.2\n0 0.1 0.1 0.5 0.1 0.5 0.5\n", size=(20, 30))
    add(tmp_path, "sub/a.jpg", "1 0.1 0.1 0.5 0.1 0.5 0.5 0.3 0.7\n", size=(40, 24))
    add(tmp_path, "C.BMP", None)
    add(tmp_path, "d.jpg", "")
    (tmp_path / "images/notes.md").write_text("not an image")
    return tmp_path


def test_folder(dataset, caplog):
    before = snapshot(dataset)
    with caplog.at_level(logging.INFO):
        samples = scan_samples((dataset / "images",), 2)
    assert [str(s.path.relative_to(dataset / "images")) for s in samples] == ["C.BMP", "b.png", "d.jpg", "sub/a.jpg"]
    assert [s.shape for s in samples] == [(20, 30), (20, 30), (20, 30), (40, 24)]
    assert [len(s.labels) for s in samples] == [0, 2, 0, 1]
    assert [p is None for p in samples[1].polygons] == [True, False]
    assert len(samples[3].polygons[0]) == 4
    assert "4 images, 2 of them backgrounds, 3 objects" in caplog.text
    assert snapshot(dataset) == before


def test_single_class_still_checks_the_classes(dataset):
    samples = scan_samples((dataset / "images",), 2, single_cls=True)
    assert all((s.labels[:, 0] == 0).all() for s in samples)
    np.testing.assert_allclose(samples[1].labels[0], [0, 0.5, 0.5, 0.2, 0.2])
    assert {float(c) for s in scan_samples((dataset / "images",), 2) for c in s.labels[:, 0]} == {0, 1}
    with pytest.raises(UserError, match="class 1"):
        scan_samples((dataset / "images",), 1, single_cls=True)


def test_list_files(dataset, monkeypatch):
    elsewhere = dataset / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    add(elsewhere, "x.jpg", None)
    lines = ["./images/b.png", "", "images/sub/a.jpg", "images/x.jpg", str(dataset / "images/d.jpg")]
    (dataset / "list.txt").write_text("\r\n".join(lines))
    samples = scan_samples((dataset / "list.txt", dataset / "images/sub"), 2)
    names = ["elsewhere/images/x.jpg", "images/b.png", "images/d.jpg", "images/sub/a.jpg"]
    assert [str(s.path.relative_to(dataset)) for s in samples] == names


def test_missing_lines_of_a_list(dataset):
    (dataset / "list.txt").write_text("images/b.png\n./images/gone.jpg\nimages/gone2.jpg\n")
    with pytest.raises(UserError, match=r"list.txt:2: found no image .*gone.jpg \(and 1 more"):
        scan_samples((dataset / "list.txt",), 2)


def test_lines_of_a_list_that_are_no_images(dataset):
    (dataset / "images/x.gif").touch()
    (dataset / "list.txt").write_text("images/b.png\n\nimages/x.gif\n")
    with pytest.raises(UserError, match=r"list.txt:3: .*x.gif is no image, .* jpg "):
        scan_samples((dataset / "list.txt",), 2)


def test_files_of_other_types_are_told(dataset, caplog):
    caplog.set_level(logging.INFO)
    count = len(scan_samples((dataset / "images",), 2))
    caplog.clear()
    for name in ("x.gif", "y.HEIC", "sub/z.gif", "a.txt", ".hidden", "labels.cache"):
        (dataset / "images" / name).touch()
    assert len(scan_samples((dataset / "images",), 2)) == count
    told = [record.message for record in caplog.records if "left out" in record.message]
    assert told == [f"{dataset / 'images'}: 4 files of other types left out (.gif, .heic, .md)"]


def test_linked_folders_are_followed_but_not_in_circles(dataset):
    (dataset / "set").mkdir()
    (dataset / "set/images").symlink_to(dataset / "images")
    (dataset / "images/loop").symlink_to(dataset / "images/sub")
    (dataset / "images/sub/up").symlink_to(dataset / "images")
    (dataset / "set/labels").symlink_to(dataset / "labels")
    samples = scan_samples((dataset / "set",), 2)
    names = [str(s.path.relative_to(dataset / "set/images")) for s in samples]
    assert names == ["C.BMP", "b.png", "d.jpg", "loop/a.jpg", "sub/a.jpg"]
    assert [len(s.labels) for s in samples] == [0, 2, 0, 0, 1]  # by the name as written: labels/loop is not there


@pytest.mark.parametrize("orientation", range(1, 9))
def test_shape_is_upright(tmp_path, orientation):
    image = add(tmp_path, "a.jpg", size=(20, 30))
    image.write_bytes(exif(image.read_bytes(), orientation))
    (sample,) = scan_samples((tmp_path / "images",), 1)
    assert sample.shape == ((30, 20) if orientation >= 5 else (20, 30))


def test_all_problems_are_found_before_one_error(dataset, caplog):
    image = dataset / "images/d.jpg"
    image.write_bytes(image.read_bytes()[:-40])
    (dataset / "images/sub/a.jpg").write_bytes(b"")
    (dataset / "images/noise.png").write_bytes(b"no image at all")
    add(dataset, "small.png", size=(9, 30))
    (dataset / "labels/b.txt").write_text("1 0.5 0.5 0.2 0.2\n1 0.5\n7 0.5 0.5 0.2 0.2\n")
    before = snapshot(dataset)
    with pytest.raises(UserError) as caught:
        scan_samples((dataset / "images",), 2)
    assert str(caught.value).startswith(f"{dataset / 'labels/b.txt'}:2: found 2 columns")
    assert "5 more problems; 5 images are concerned" in str(caught.value)
    for part in ("d.jpg", "a.jpg", "noise.png", "30 x 9", "b.txt:3: found class 7"):
        assert part in caplog.text
    assert snapshot(dataset) == before
    with pytest.raises(UserError):  # and no result of it is kept
        scan_samples((dataset / "images",), 2)


def test_bytes_behind_the_end_of_a_jpeg_are_harmless(tmp_path):
    image = add(tmp_path, "a.jpg")
    content = image.read_bytes() + b"trailing bytes"
    image.write_bytes(content)
    assert len(scan_samples((tmp_path / "images",), 1)) == 1
    assert image.read_bytes() == content


def test_the_log_is_limited(tmp_path, caplog):
    add(tmp_path, "a.png", "9 0.5 0.5 0.2 0.2\n" + "".join(f"9 0.5 0.5 0.2 0.{i}\n" for i in range(10, 40)))
    with pytest.raises(UserError, match=r"30 more problems; 1 images are concerned"):
        scan_samples((tmp_path / "images",), 2)
    assert caplog.text.count("found class 9") == 20
    assert "and 11 more" in caplog.text


def test_mended_rows_are_counted_also_from_the_cache(tmp_path, caplog):
    add(tmp_path, "a.png", "0 0.5 0.5 1.0001 0.2\n0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n")
    for _ in range(2):
        caplog.clear()
        assert len(scan_samples((tmp_path / "images",), 1)[0].labels) == 2
        assert "2 label rows mended" in caplog.text


def test_no_images_and_wrong_sources(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.xyz").write_text("")
    with pytest.raises(UserError, match="found no images, expected files ending in bmp"):
        scan_samples((tmp_path / "images",), 1)
    with pytest.raises(UserError, match="no such folder"):
        scan_samples((tmp_path / "none",), 1)
    with pytest.raises(UserError, match="expected a folder"):
        scan_samples((tmp_path / "images/a.xyz",), 1)


def test_no_labels(tmp_path):
    add(tmp_path, "a.png", None)
    add(tmp_path, "b.png", "")
    with pytest.raises(UserError, match=f"found no labels for 2 images.*{tmp_path}/labels/a.txt"):
        scan_samples((tmp_path / "images",), 1)
    samples = scan_samples((tmp_path / "images",), 1, require_labels=False)
    assert [s.labels.shape for s in samples] == [(0, 5), (0, 5)]


def test_cache_gives_the_same_and_is_outside_the_data(dataset, cache, monkeypatch):
    before = snapshot(dataset)
    cold = scan_samples((dataset / "images",), 2)
    monkeypatch.setattr(utils.data.scan, "_scan", lambda *_: pytest.fail("scanned again"))
    equal(cold, scan_samples((dataset / "images",), 2))
    assert snapshot(dataset) == before
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("objects", [0, 2])
def test_cache_without_polygons(tmp_path, objects):
    add(tmp_path, "a.png", "".join(f"{i} 0.5 0.5 0.2 0.2\n" for i in range(objects)))
    first = scan_samples((tmp_path / "images",), 2, require_labels=False)
    equal(first, scan_samples((tmp_path / "images",), 2, require_labels=False))


def test_cache_is_never_stale(dataset):
    def labels():
        return scan_samples((dataset / "images",), 2)[1].labels.tolist()

    old = labels()
    file = dataset / "labels/b.txt"
    stat = file.stat()
    file.write_text(file.read_text().replace("0.5 0.5 0.2", "0.4 0.5 0.2"))  # same size
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # and same time, as from an archive
    new = labels()
    assert new != old
    file.unlink()
    assert labels() == []
    with pytest.raises(UserError):
        scan_samples((dataset / "images",), 1)  # another number of classes
    (dataset / "images/d.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"d\.jpg"):
        labels()


def test_a_link_to_nothing_that_comes_later_is_seen(dataset):
    add(dataset, "late.jpg", None)
    scan_samples((dataset / "images",), 2)
    (dataset / "labels/late.txt").symlink_to("unmounted/late.txt")
    with pytest.raises(UserError, match=r"late\.txt: found a link to unmounted/late\.txt"):
        scan_samples((dataset / "images",), 2)


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_damaged_cache_is_made_again(dataset, cache, damage):
    cold = scan_samples((dataset / "images",), 2)
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    equal(cold, scan_samples((dataset / "images",), 2))
    assert file.stat().st_size > 200


def test_unwritable_cache_is_one_warning(dataset, cache, caplog):
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("a file where the folder should be")
    assert len(scan_samples((dataset / "images",), 2)) == 4
    assert caplog.text.count("cannot keep the result") == 1


def test_thousand_cached_images_take_no_time(tmp_path):
    first = add(tmp_path, "0000.jpg")
    for i in range(1, 1000):
        (tmp_path / f"images/{i:04d}.jpg").hardlink_to(first)
        (tmp_path / f"labels/{i:04d}.txt").hardlink_to(tmp_path / "labels/0000.txt")
    scan_samples((tmp_path / "images",), 1)
    start = time.perf_counter()
    assert len(scan_samples((tmp_path / "images",), 1)) == 1000
    assert time.perf_counter() - start < 1
