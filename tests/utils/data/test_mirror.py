import errno
import os
import shutil
from collections import namedtuple

import pytest

from utils.data.mirror import find_files, mirror
from utils.errors import UserError

SPACE = namedtuple("SPACE", "total used free")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "set/images/deep").mkdir(parents=True)
    (tmp_path / "set/a.txt").write_text("a")
    (tmp_path / "set/images/deep/b.jpg").write_bytes(b"bb")
    return tmp_path / "set"


@pytest.fixture
def no_links(monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)


def test_files_are_the_same_ones(folder, tmp_path):
    mirror(find_files(folder), tmp_path / "new")
    for name in ("a.txt", "images/deep/b.jpg"):
        assert (tmp_path / "new" / name).samefile(folder / name)


def test_symbolic_links_are_followed_but_not_in_circles(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/c.jpg").write_bytes(b"c")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "d.jpg").symlink_to(tmp_path / "elsewhere/c.jpg")
    (folder / "images/circle").symlink_to(folder)
    (folder / "dangling").symlink_to(tmp_path / "nothing")
    os.mkfifo(folder / "pipe")
    (tmp_path / "alias").symlink_to(folder)
    mirror(find_files(tmp_path / "alias"), tmp_path / "new")
    found = sorted(str(path.relative_to(tmp_path / "new")) for path in (tmp_path / "new").rglob("*") if path.is_file())
    assert found == ["a.txt", "d.jpg", "images/deep/b.jpg", "linked/c.jpg"]
    assert not any(path.is_symlink() for path in (tmp_path / "new").rglob("*"))


def test_what_cannot_be_linked_is_copied(folder, tmp_path, no_links):
    mirror(find_files(folder), tmp_path / "new")
    assert (tmp_path / "new/images/deep/b.jpg").read_bytes() == b"bb"
    (tmp_path / "new/a.txt").write_text("changed")
    assert (folder / "a.txt").read_text() == "a"


def test_copies_need_room(folder, tmp_path, no_links, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SPACE(9, 7, 2))
    with pytest.raises(UserError, match=r"a copy of .*set/a\.txt and others .* needs 3 B, but only 2 B are free"):
        mirror(find_files(folder), tmp_path / "new")
    assert not [path for path in (tmp_path / "new").rglob("*") if path.is_file()]


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        find_files(tmp_path / "nothing")


def test_only_the_files_given(folder, tmp_path):
    files = find_files(folder)
    assert [path.as_posix() for path in files] == ["a.txt", "images/deep/b.jpg"]
    files.popitem()
    mirror(files, tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_what_is_linked_already_is_not_counted_as_a_copy(folder, tmp_path, monkeypatch):
    link = os.link

    def refuse_pictures(file, place):
        if file.suffix == ".jpg":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(file, place)

    monkeypatch.setattr(os, "link", refuse_pictures)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SPACE(9, 7, 1))
    with pytest.raises(UserError, match=r"a copy of .*b\.jpg and others .* needs 2 B"):
        mirror(find_files(folder), tmp_path / "new")
