import gzip

import pytest

from utils.data.listing import list_images, read_names
from utils.errors import UserError


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.PNG", "c d.webp"):
        (tmp_path / "images" / name).touch()
    return tmp_path


def test_a_compressed_list_is_a_list(images):
    text = "\ufeff./images/a.jpg\r\n\r\nimages/c d.webp\r\n"
    (images / "plain.txt").write_text(text)
    (images / "train.TXT.gz").write_bytes(gzip.compress(text.encode()))
    expected = {str(images / "images" / name) for name in ("a.jpg", "c d.webp")}
    assert list_images(images / "plain.txt") == list_images(images / "train.TXT.gz") == expected


def test_lines_of_a_compressed_list_are_named(images):
    (images / "train.txt.gz").write_bytes(gzip.compress(b"images/a.jpg\nimages/x.jpg\n"))
    with pytest.raises(UserError, match=r"train\.txt\.gz:2: found no image .*x\.jpg"):
        list_images(images / "train.txt.gz")


@pytest.mark.parametrize("damage", [b"images/a.jpg\n", gzip.compress(b"images/a.jpg\n")[:-9], b""])
def test_damaged_compression(images, damage):
    (images / "train.txt.gz").write_bytes(damage)
    if not damage:  # an empty gzip stream is an empty list
        assert list_images(images / "train.txt.gz") == set()
        return
    with pytest.raises(UserError, match=r"train\.txt\.gz: cannot be read \(.*expected a list"):
        list_images(images / "train.txt.gz")


def test_a_list_in_utf_16_is_told(images):
    (images / "train.txt").write_text("images/a.jpg\n", encoding="utf-16")
    with pytest.raises(UserError, match=r"train\.txt: found UTF-16 .*; save it as UTF-8"):
        list_images(images / "train.txt")


def test_other_compressed_files_are_no_lists(images):
    (images / "images.tar.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(UserError, match=r"expected a folder of images or a \.txt or \.txt\.gz"):
        list_images(images / "images.tar.gz")


def test_first_words(tmp_path):
    (tmp_path / "list.txt").write_text("two 1\n\none -1\r\ntwo  1\n")
    assert read_names(tmp_path / "list.txt") == ["two", "one"]
