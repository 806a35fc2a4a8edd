"""Choosing the device a command runs on."""

import torch

from utils.errors import UserError


def select_device(name: str = "", process: int | None = None) -> torch.device:
    """The device named on the command line.

    Args:
        name: "", "cpu", "mps", or a CUDA index such as "0" or "cuda:0"; "" takes the first GPU, else the CPU.
        process: Number of this process, if there are several on this machine; each takes another GPU, of those listed
            in `name`, such as "0,1", or of all.

    Raises:
        UserError: If the device does not exist here, or a single process is given several.
    """
    name = name.strip().lower().replace("cuda:", "")
    if name == "" and not torch.cuda.is_available():
        return torch.device("cpu")
    if process is not None and name not in ("cpu", "mps"):
        listed = name.split(",") if name else [str(index) for index in range(torch.cuda.device_count())]
        if process >= len(listed):
            raise UserError(
                f"--device {name or 'of all'}: {len(listed)} GPUs for more processes than that; start fewer with "
                "--nproc_per_node"
            )
        name = listed[process]
    if name == "":
        return torch.device("cuda:0")
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if torch.backends.mps.is_available():
            return torch.device("mps")
        raise UserError("--device mps: this machine has no MPS device; use --device cpu")
    if "," in name:
        count = len(name.split(","))
        raise UserError(
            f"--device {name}: several devices need several processes; start with torchrun --nproc_per_node {count}"
        )
    if not name.isdecimal():
        raise UserError(f"--device {name}: expected cpu, mps or a CUDA index such as 0")
    if int(name) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: {torch.cuda.device_count()} CUDA devices are visible here; use --device cpu")
    return torch.device("cuda", int(name))


def describe_device(device: torch.device) -> str:
    """One line for the log: the device's name and memory, and the version of torch."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB (torch {torch.__version__})"
    return f"{device.type}, {torch.get_num_threads()} threads (torch {torch.__version__})"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all its work, so that a clock read next is true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
