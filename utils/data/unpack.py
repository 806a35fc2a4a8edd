"""Unpack archives that come from elsewhere: files and folders, and nothing else that may be in them."""

import contextlib
import gzip
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tqdm import tqdm

from utils.data.space import require_space
from utils.errors import UserError

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_CHUNK = 1 << 20  # bytes
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,  # zipfile's own error for a compression it does not know
    RuntimeError,  # an encrypted member
    ValueError,
    OverflowError,
)


class DamagedArchive(UserError):
    """An archive that cannot be read to its end."""


@dataclass(frozen=True)
class _Member:
    """One entry of an archive.

    Attributes:
        name: Its path, with forward slashes.
        kind: "file", "folder", or what else it is.
        size: Bytes it says it has.
        open: Gives its content.
    """

    name: str
    kind: str
    size: int
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip, .tar or .tar.gz into a folder that nobody else writes to; a .json is copied as it is.

    What macOS adds (`__MACOSX`, `.DS_Store`) is left out, and so are owners, permissions and times.

    Args:
        archive: The file.
        folder: Where to; made if it is not there. After an error it holds a part of the archive.

    Raises:
        DamagedArchive: If the archive cannot be read to its end.
        UserError: If it has a member that would lie outside of `folder`, a link or a device, or more content than the
            disk has room for; none of these is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = archive.name.lower()
    if name.endswith(".json"):
        require_space(folder, archive.stat().st_size, f"a copy of {archive.name}")
        shutil.copyfile(archive, folder / archive.name)
    elif name.endswith(".zip"):
        _write_all(archive, folder, _zip_members(archive, folder))
    elif name.endswith(_TAR_SUFFIXES):
        _write_all(archive, folder, _tar_members(archive))
    else:
        raise UserError(f"{archive}: expected a file that ends in .zip, {', '.join(_TAR_SUFFIXES)} or .json")


def _write_all(archive: Path, folder: Path, members: Generator[_Member, None, None]) -> None:
    try:
        with (
            contextlib.closing(members),
            tqdm(desc=f"unpacking {archive.name}", unit="B", unit_scale=True) as bar,
        ):
            for member in members:
                path = _checked_path(archive, member)
                if "__MACOSX" not in path.parts and path.name != ".DS_Store":
                    _write(member, folder / path, bar)
    except _DAMAGE as error:
        raise DamagedArchive(f"{archive}: is damaged ({error or type(error).__name__})") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _refusal(archive, f"{error.filename} both as a file and as a folder") from error


def _write(member: _Member, path: Path, bar: "tqdm[Any]") -> None:
    if member.kind == "folder":
        path.mkdir(parents=True, exist_ok=True)
        return
    require_space(path, member.size, "unpacking it")
    path.parent.mkdir(parents=True, exist_ok=True)
    source = member.open()
    if source is None:
        raise EOFError(f"no content for {member.name}")
    with source, path.open("wb") as target:
        while chunk := source.read(_CHUNK):
            target.write(chunk)
            bar.update(len(chunk))


def _checked_path(archive: Path, member: _Member) -> PurePosixPath:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or re.match("[A-Za-z]:", member.name):
        raise _refusal(archive, f"the path {member.name!r}")
    if member.kind not in ("file", "folder"):
        raise _refusal(archive, f"{member.name!r}, a {member.kind}")
    return path


def _refusal(archive: Path, found: str) -> UserError:
    return UserError(
        f"{archive}: found {found}, expected only files and folders, with paths inside of the archive; get it from "
        "another place"
    )


def _zip_members(archive: Path, folder: Path) -> Generator[_Member, None, None]:
    with zipfile.ZipFile(archive) as file:
        entries = file.infolist()
        require_space(folder, sum(entry.file_size for entry in entries), f"unpacking {archive.name}")
        for entry in entries:
            mode = stat.S_IFMT(entry.external_attr >> 16)  # 0 where the program that packed it has no such modes
            kind = (
                "folder"
                if entry.filename.endswith("/")
                else {0: "file", stat.S_IFREG: "file"}.get(mode, "link or device")
            )
            yield _Member(entry.filename, kind, entry.file_size, lambda entry=entry: file.open(entry))  # type: ignore[misc]


class _StrictInfo(tarfile.TarInfo):
    """A header that is damaged is an error everywhere; `tarfile` takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_StrictInfo":
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined] # known to Python, but not to its stubs
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


def _tar_members(archive: Path) -> Generator[_Member, None, None]:
    with (
        archive.open("rb") if archive.suffix.lower() == ".tar" else gzip.open(archive) as stream,
        tarfile.open(fileobj=stream, mode="r:", tarinfo=_StrictInfo) as file,
    ):
        for entry in file:
            kind = "file" if entry.isreg() else "folder" if entry.isdir() else "link or device"
            yield _Member(entry.name, kind, entry.size, lambda entry=entry: file.extractfile(entry))  # type: ignore[misc]
        while stream.read(_CHUNK):  # the checksum of a .gz is behind the end of the tar
            pass
