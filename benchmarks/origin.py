"""Where a figure comes from: date, hardware, commit and versions, for the rows of a table."""

import datetime
import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

import torch

from utils.files import PROGRAM_ROOT

_PACKAGES = ("torch", "numpy", "numba", "triton", "opencv-python-headless", "opencv-python")


def origin(device: torch.device) -> dict[str, str]:
    """Date, hardware, commit, code, what the C library was told about memory, and versions.

    The commit does not tell what has been changed since; "code" does: a digest of all Python files of models and utils.
    """
    told = sorted(name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES")))
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "date": datetime.date.today().isoformat(),
        "device": device.type,
        "gpu": gpu,
        "cpu": _cpu_name(),
        "threads": str(torch.get_num_threads()),
        "commit": commit_of(PROGRAM_ROOT),
        "code": _digest(PROGRAM_ROOT / "models", PROGRAM_ROOT / "utils"),
        "malloc": " ".join(f"{name}={os.environ[name]}" for name in told),
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
    }


def commit_of(root: Path) -> str:
    """The commit that is checked out in a folder, read from its .git; "" if that does not tell."""
    git = root / ".git"
    if not (git / "HEAD").is_file():
        return ""
    head = (git / "HEAD").read_text().strip()
    name = head.removeprefix("ref: ")
    if name == head:
        return head[:12]
    if (git / name).is_file():
        return (git / name).read_text()[:12]
    packed = (git / "packed-refs").read_text().splitlines() if (git / "packed-refs").is_file() else []
    return next((line[:12] for line in packed if line.endswith(f" {name}")), "")


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _digest(*folders: Path) -> str:
    files = sorted(file for folder in folders for file in folder.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
