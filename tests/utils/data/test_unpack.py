import contextlib
import gzip
import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.unpack import DamagedArchive, unpack
from utils.errors import UserError

SPACE = namedtuple("SPACE", "total used free")
FILES = {"set/images/a.jpg": b"picture" * 1000, "set/labels/a.txt": b"", "b.txt": b"b"}


def make_zip(path: Path, files: dict[str, bytes] = FILES, *, mode: int | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            if mode is not None:
                entry.external_attr = mode << 16
            archive.writestr(entry, content)
    return path


def make_tar(path: Path, files: dict[str, bytes] = FILES, **fields) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix != ".tar" else "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            for key, value in fields.items():
                setattr(entry, key, value)
            archive.addfile(entry, io.BytesIO(content))
    return path


def make(path: Path, files: dict[str, bytes] = FILES) -> Path:
    return make_zip(path, files) if path.suffix == ".zip" else make_tar(path, files)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


NAMES = ("a.zip", "a.tar", "a.tar.gz", "a.tgz", "A.ZIP")


@pytest.mark.parametrize("name", NAMES)
def test_all_that_is_in_it(tmp_path, name):
    unpack(make_zip(tmp_path / name) if name == "A.ZIP" else make(tmp_path / name), tmp_path / "out" / "deep")
    assert tree(tmp_path / "out" / "deep") == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out"])


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_what_macos_adds_is_left_out(tmp_path, name):
    extra = {"__MACOSX/set/._a.jpg": b"x", "set/.DS_Store": b"x", "set/__MACOSX/b": b"x", ".DS_Store": b"x"}
    unpack(make(tmp_path / name, {**extra, **FILES}), tmp_path / "out")
    assert tree(tmp_path / "out") == FILES


def test_modes_are_not_taken(tmp_path):
    unpack(make_tar(tmp_path / "a.tar", mode=0o4777, mtime=5, uid=0), tmp_path / "out")
    unpack(make_zip(tmp_path / "a.zip", mode=stat.S_IFREG | 0o6777), tmp_path / "out2")
    for folder in ("out", "out2"):
        status = (tmp_path / folder / "b.txt").stat()
        assert not status.st_mode & 0o6111
        assert status.st_mtime > 5


def test_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("empty/", b"")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in (".", "./empty"):
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.DIRTYPE
            archive.addfile(entry)
    for name in ("a.zip", "a.tar"):
        unpack(tmp_path / name, tmp_path / name[2:])
        assert [path.name for path in (tmp_path / name[2:]).iterdir()] == ["empty"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("path", ["../evil", "set/../../evil", "/tmp/evil", "..\\evil", "C:\\evil", "C:/evil", ".."])
def test_paths_that_lead_outside_are_refused(tmp_path, name, path):
    (tmp_path / "in").mkdir()
    archive = make(tmp_path / "in" / name, {path: b"x"})
    with pytest.raises(UserError, match="expected only files and folders, with paths inside"):
        unpack(archive, tmp_path / "out" / "deep")
    assert tree(tmp_path / "out") == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@given(
    st.lists(st.sampled_from(["..", ".", "", "a", "b", "/", "c:", "\\", "é", "."]), min_size=1, max_size=6).map(
        "/".join
    )
)
@settings(max_examples=60)
def test_no_path_at_all_leads_outside(tmp_path_factory, name):
    base = tmp_path_factory.mktemp("paths")
    for archive in (make_tar(base / "a.tar", {name: b"x"}), make_zip(base / "a.zip", {name: b"x"})):
        out = base / archive.suffix / "out"
        with contextlib.suppress(UserError):
            unpack(archive, out)
        archive.unlink()
        assert all(out in path.parents for path in base.rglob("*") if path.is_file() and path.suffix != ".zip")
        shutil.rmtree(out.parent)


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (tarfile.SYMTYPE, "/etc"),
        (tarfile.SYMTYPE, "b.txt"),
        (tarfile.LNKTYPE, "b.txt"),
        (tarfile.FIFOTYPE, ""),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind, link):
    archive = make_tar(tmp_path / "a.tar", {"link": b""}, type=kind, linkname=link)
    with pytest.raises(UserError, match="'link', a link or device"):
        unpack(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, mode):
    with pytest.raises(UserError, match="'link', a link or device"):
        unpack(make_zip(tmp_path / "a.zip", {"link": b"/etc"}, mode=mode | 0o777), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_name_that_is_a_file_and_a_folder(tmp_path):
    for files in ({"a": b"", "a/b": b""}, {"a/b": b"", "a": b""}):
        with pytest.raises(UserError, match="both as a file and as a folder"):
            unpack(make_tar(tmp_path / "a.tar", files), tmp_path / "out")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_what_has_no_room_is_refused(tmp_path, monkeypatch, name):
    archive = make(tmp_path / name, {"zeros": bytes(5_000_000)})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SPACE(10**7, 0, 4_999_999))
    with pytest.raises(UserError, match=r"needs 5.0 MB, but only 5.0 MB are free"):
        unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {}


def test_a_zip_has_no_more_content_than_it_says(tmp_path):
    """Otherwise the room it needs could not be known."""
    archive = make_zip(tmp_path / "a.zip", {"a": bytes(100_000)})
    content = bytearray(archive.read_bytes())
    size = (100_000).to_bytes(4, "little")
    archive.write_bytes(content.replace(size, (100).to_bytes(4, "little")))
    with pytest.raises(DamagedArchive):
        unpack(archive, tmp_path / "out")
    assert sum(map(len, tree(tmp_path / "out").values())) <= 100


def test_an_encrypted_zip(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"a": b"x"})
    content = bytearray(archive.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(DamagedArchive, match="encrypted"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("content", [b"", b"<html>Sorry</html>", b"PK\3\4", b"\x1f\x8b", bytes(30), os.urandom(5000)])
def test_no_archive_at_all(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DamagedArchive, match="is damaged"):
        unpack(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_cut_anywhere(tmp_path, name):
    files = {f"{number}.bin": os.urandom(700) for number in range(9)}
    (tmp_path / "in").mkdir()
    content = make(tmp_path / "in" / name, files).read_bytes()
    end = 9 * 1536 if name == "a.tar" else len(content) - 1  # a tar is padded with zeros
    for length in {*range(0, end, 211), end, 1536 * 4, 1536 * 4 + 512}:
        if length > end:
            continue
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(DamagedArchive, match=r"a\..* is damaged"):
            unpack(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_a_changed_byte_is_noticed(tmp_path, name):
    files = {f"{number}.bin": os.urandom(700) for number in range(3)}
    content = bytearray(make(tmp_path / name, files).read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DamagedArchive):
        unpack(tmp_path / name, tmp_path / "out")


def test_a_damaged_header_is_not_the_end_of_a_tar(tmp_path):
    raw = make_tar(tmp_path / "a.tar", {f"{number}.bin": bytes(700) for number in range(5)}).read_bytes()
    for suffix, pack in ((".tar", bytes), (".tar.gz", gzip.compress)):
        (tmp_path / f"b{suffix}").write_bytes(pack(raw[: 1536 * 3] + b"x" * 512 + raw[1536 * 3 + 512 :]))
        with pytest.raises(DamagedArchive, match="invalid header"):
            unpack(tmp_path / f"b{suffix}", tmp_path / "out")


def test_a_json_is_copied(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    unpack(tmp_path / "a.json", tmp_path / "out")
    (tmp_path / "out" / "a.json").write_text("changed")
    assert (tmp_path / "a.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["a.rar", "a.7z", "a", "a.gz"])
def test_other_files_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"expected a file that ends in \.zip"):
        unpack(tmp_path / name, tmp_path / "out")
