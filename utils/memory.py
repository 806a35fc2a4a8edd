"""How much memory is free, and how much a computation takes."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.autograd import profiler

from utils.device import synchronize
from utils.errors import UserError

_MEMINFO = Path("/proc/meminfo")
_MEMBERSHIP = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still take.

    On a CUDA GPU, what no process holds after the allocator gave back what it kept for later. On a CPU, what the
    system says is available, or less if a container or a batch system set a limit.

    Args:
        device: A CUDA GPU or the CPU.

    Raises:
        UserError: If it is another device.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        raise UserError(f"how much memory is free on {device.type} cannot be found out; give --batch-size a number")
    return max(min([_available(), *_allowances()]), 0)


def _available() -> int:
    """Of the machine: what Linux estimates can be had without swapping; elsewhere half of all."""
    if _MEMINFO.exists():
        return _table(_MEMINFO)["MemAvailable:"] * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _allowances() -> Iterator[int]:
    """What each control group above this process leaves (cgroup v2); file caches do not count, they can be dropped."""
    lines = _MEMBERSHIP.read_text().splitlines() if _MEMBERSHIP.exists() else []
    for line in lines:
        if line.startswith("0::"):
            group = _GROUPS / line.removeprefix("0::").lstrip("/")
            for folder in (group, *group.parents):
                limit, used = folder / "memory.max", folder / "memory.current"
                if limit.exists() and (text := limit.read_text().strip()) != "max":
                    yield int(text) - int(used.read_text()) + _table(folder / "memory.stat")["inactive_file"]


def _table(file: Path) -> dict[str, int]:
    return {words[0]: int(words[1]) for words in map(str.split, file.read_text().splitlines())}


def peak_memory(call: Callable[[], object], device: torch.device) -> int:
    """Most bytes that a call holds at one time, beyond what was held before.

    It counts what goes through PyTorch's allocator: tensors, temporaries of operators, oneDNN's scratch space; not what
    NumPy, Numba, Python or a C++ library takes for itself, nor what the allocator keeps for later. On a CPU it is the
    highest running sum of the profiler's allocation events, which are exact and alike in torch 2.6 to 2.15; on a GPU
    it is the allocator's own counter.

    Args:
        call: What to measure.
        device: Where it works.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or the profiler's library writes lines of its own to the console
    with profiler.profile(profile_memory=True) as record:
        call()
    results = record.kineto_results
    assert results is not None
    changes = (event.nbytes() for event in results.events() if event.name() == "[memory]")
    return max(itertools.accumulate(changes, initial=0))
