"""What the C library does with memory that was freed."""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3), for the two ways back to the system: cutting off the end of the heap when so much
of it is free, and having at most so many large blocks outside the heap."""
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_")
"""With these, or with glibc.malloc in GLIBC_TUNABLES, a user says the same to glibc."""


def keep_freed_memory() -> None:
    """Keep memory that is freed for what this process allocates next.

    glibc gives large blocks back to the system, which fills each page with zeros when it is touched again: with
    yolov5n-ak5 at 640 px, on two cores of an EPYC, a fifth to a third of a training step of 16 images. PyTorch keeps
    memory on a GPU, too. The process takes up to 40 % more, and gives nothing back before it ends; only threads other
    than the first go on giving back what is larger than 64 MB. Nothing changes where an environment variable says how
    glibc is to do it, nor with another C library.
    """
    told = "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "") or any(name in os.environ for name in _VARIABLES)
    if told or sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_TRIM_THRESHOLD, -1)
        libc.mallopt(_MMAP_MAX, 0)
