"""Choosing the device a command runs on."""

import torch

from utils.errors import UserError


def select_device(name: str = "") -> torch.device:
    """The device named on the command line.

    Args:
        name: "", "cpu", "mps", or a CUDA index such as "0" or "cuda:0"; "" takes the first GPU, else the CPU.

    Raises:
        UserError: If the device does not exist here, or several are listed.
    """
    name = name.strip().lower().replace("cuda:", "")
    if name == "":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if torch.backends.mps.is_available():
            return torch.device("mps")
        raise UserError("--device mps: this machine has no MPS device; use --device cpu")
    if "," in name:
        raise UserError(f"--device {name}: several devices in one process are not supported; name one")
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
