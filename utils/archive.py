"""The archive `torch.save` writes (a zip of one pickle and raw storages), read with every size checked.

Format of torch 1.6 and newer: `<prefix>/data.pkl`, one raw storage in each `<prefix>/data/<key>`, and in newer files
`<prefix>/byteorder`.
"""

import math
import re
import struct
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError
from utils.unpickle import Global, Instance, describe

MAX_PICKLE_BYTES = 32 * 2**20
MAX_EXPANSION = 8
"""How many times its size an archive may unpack to; torch stores without compression."""
MAX_DIMENSIONS = 8

_STORAGE_DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_REBUILD_TENSOR = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
_REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
_OLD_STREAM = re.compile(rb"\x80[\x02-\x05]")
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,  # zipfile's own error for a compression or zip version it does not know
    RuntimeError,  # an encrypted entry
    ValueError,
    OverflowError,
)


def is_tensor_global(name: str) -> bool:
    """Whether a dotted name is one that tensors need in a pickle."""
    return name in _STORAGE_DTYPES or name in _REBUILD_TENSOR or name == _REBUILD_PARAMETER


class Archive:
    """A torch archive open for reading; use it in a `with` statement.

    Args:
        path: The file.

    Raises:
        UserError: If the file is missing, empty, truncated, no zip, or no torch archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = _open_zip(path)
        try:
            self._names = set(self._zip.namelist())
            self._prefix = self._find_prefix()
            self._byte_order = self._read_byte_order()
        except BaseException:
            self._zip.close()
            raise
        self._storages: dict[tuple[str, torch.dtype], Tensor] = {}

    def __enter__(self) -> "Archive":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def pickle(self) -> bytes:
        """The pickle that describes the saved object.

        Raises:
            UserError: If it is damaged, or far larger than any checkpoint needs.
        """
        name = f"{self._prefix}/data.pkl"
        if self._zip.getinfo(name).file_size > MAX_PICKLE_BYTES:
            raise UserError(f"{self.path}: {name} is larger than {MAX_PICKLE_BYTES} bytes, not a checkpoint")
        return self._read(name)

    def tensor(self, record: object) -> Tensor:
        """Read one tensor; floating-point numbers of any size become float32.

        Args:
            record: What `unpickle` returned in the place of a tensor or a parameter.

        Returns:
            A view of its storage, as in the file.

        Raises:
            UserError: If the record is no tensor, or does not fit in its storage.
        """
        if isinstance(record, Instance) and record.name == _REBUILD_PARAMETER and record.args:
            record = record.args[0]
        if not isinstance(record, Instance) or record.name not in _REBUILD_TENSOR or len(record.args) < 4:
            raise UserError(f"{self.path}: expected a tensor, found {describe(record)}; the file is damaged")
        storage_record, offset, size, stride = record.args[:4]
        storage = self._storage(storage_record)
        if not _fits(len(storage), offset, size, stride):
            raise UserError(
                f"{self.path}: a tensor of shape {describe(size)}, stride {describe(stride)} and offset "
                f"{describe(offset)} does not fit in its storage of {len(storage)} numbers; the file is damaged"
            )
        return storage.as_strided(size, stride, offset)

    def _storage(self, record: object) -> Tensor:
        if not (isinstance(record, Instance) and record.name == "storage" and len(record.args) == 5):
            raise UserError(f"{self.path}: a tensor without a storage; the file is damaged")
        _, kind, key, _, numel = record.args
        dtype = _STORAGE_DTYPES.get(kind.name) if isinstance(kind, Global) else None
        if dtype is None or type(key) is not str or type(numel) is not int or numel < 0:
            raise UserError(f"{self.path}: a storage of unknown kind {describe(kind)}; the file is damaged")
        if (key, dtype) not in self._storages:
            self._storages[key, dtype] = self._read_storage(key, dtype, numel)
        return self._storages[key, dtype]

    def _read_storage(self, key: str, dtype: torch.dtype, numel: int) -> Tensor:
        name = f"{self._prefix}/data/{key}"
        raw = self._read(name) if name in self._names else None
        if raw is None or len(raw) < numel * dtype.itemsize:
            found = "is missing" if raw is None else f"holds {len(raw)} bytes, expected {numel * dtype.itemsize}"
            raise UserError(f"{self.path}: {name} {found}; the file is damaged, get it again")
        integers = np.frombuffer(raw, np.dtype(f"{self._byte_order}i{dtype.itemsize}"), count=numel)
        storage = torch.from_numpy(integers.astype(f"=i{dtype.itemsize}")).view(dtype)
        return storage.float() if dtype.is_floating_point else storage

    def _read(self, name: str) -> bytes:
        try:
            return self._zip.read(name)
        except _DAMAGE as error:
            raise UserError(f"{self.path}: {name} is damaged ({error}); get the file again") from error

    def _find_prefix(self) -> str:
        prefixes = [name[: -len("/data.pkl")] for name in self._names if name.endswith("/data.pkl")]
        if len(prefixes) != 1:
            raise UserError(f"{self.path}: a zip file, but not a checkpoint (no data.pkl in it); expected a .pt file")
        if f"{prefixes[0]}/constants.pkl" in self._names:
            raise UserError(f"{self.path}: a TorchScript file; give the .pt file it was exported from")
        if sum(entry.file_size for entry in self._zip.infolist()) > MAX_EXPANSION * self.path.stat().st_size:
            raise UserError(f"{self.path}: unpacks to more than {MAX_EXPANSION} times its size; it was not loaded")
        return prefixes[0]

    def _read_byte_order(self) -> str:
        name = f"{self._prefix}/byteorder"
        order = self._read(name).decode("ascii", "replace") if name in self._names else "little"
        if order not in ("little", "big"):
            raise UserError(f"{self.path}: unknown byte order {order[:20]!r}; the file is damaged")
        return "<" if order == "little" else ">"


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        with path.open("rb") as file:
            head = file.read(4)
        return zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give the path of a .pt file (nothing is downloaded unasked)") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a directory; give the .pt file itself") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _DAMAGE as error:
        raise UserError(f"{path}: {_why_no_zip(head)}") from error


def _why_no_zip(head: bytes) -> str:
    if not head:
        return "is empty; the writing or the download of this file failed, get it again"
    if head.startswith(b"PK"):
        return "is truncated or damaged; get the file again"
    if _OLD_STREAM.match(head):
        remedy = "if you trust its source, open it once with that version of YOLOv5 and save it again"
        return f"was written by torch older than 1.6; {remedy}"
    return "is not a checkpoint; expected a .pt file written by torch.save"


def _fits(numel: int, offset: Any, size: Any, stride: Any) -> bool:
    """Whether a strided view lies inside a storage of `numel` numbers and is not larger than it."""
    if type(offset) is not int or type(size) is not tuple or type(stride) is not tuple:
        return False
    if not len(size) == len(stride) <= MAX_DIMENSIONS:
        return False
    if not all(type(n) is int and 0 <= n < 2**62 for n in (offset, *size, *stride)):
        return False
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else 0
    return count <= numel and last < max(numel, 1) and offset <= numel
