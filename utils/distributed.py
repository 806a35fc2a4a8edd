"""Training in several processes: who this process is, and how they agree.

Processes are started by `torchrun`, which tells them their rank in environment variables; a process that was started
alone is a world of one, in which everything here does nothing.
"""

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from utils.errors import UserError

Value = TypeVar("Value")
Net = TypeVar("Net", bound=nn.Module)

_READY = datetime.timedelta(hours=12)  # for checking a data set that no one has checked before
_STEP = datetime.timedelta(minutes=10)  # for everything that all processes do together


@dataclass(frozen=True)
class World:
    """The processes of a training.

    Attributes:
        rank: Number of this process, from 0; process 0 writes files and talks.
        size: How many there are.
        local_rank: Number of this process on its machine.
        local_size: How many there are on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes; in a world of one the tensor itself."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def gathered(self, value: Value) -> list[Value]:
        """What every process has, in the order of ranks; it is pickled on the way."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the buffers of process 0: statistics of BatchNorms differ between them."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


ALONE = World()
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")  # in the order of the fields


def this_world() -> World:
    """The world as `torchrun` describes it.

    Raises:
        UserError: If its description is incomplete.
    """
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return World()
    try:
        return World(*(int(os.environ[name]) for name in _VARIABLES))
    except KeyError as error:
        name = error.args[0]
        raise UserError(f"WORLD_SIZE is set, but {name} is not; start several processes with torchrun") from None


def check_sync_bn(world: World, device: torch.device) -> None:
    """See that BatchNorms can take their statistics over all processes.

    Raises:
        UserError: If there is one process, or the device is no GPU.
    """
    if world.size == 1 or device.type != "cuda":
        raise UserError("--sync-bn needs several processes on CUDA GPUs; start them with torchrun, or leave it out")


def synchronized(model: Net) -> Net:
    """The model with BatchNorms that take their statistics over all processes; see `check_sync_bn`."""
    return cast(Net, nn.SyncBatchNorm.convert_sync_batchnorm(model))


def together(model: nn.Module, world: World, device: torch.device) -> nn.Module:
    """The model as a network whose gradients are averaged over all processes; in a world of one the model itself."""
    if world.size == 1:
        return model
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def apart(network: nn.Module, *, until: bool) -> contextlib.AbstractContextManager[None]:
    """Let every process gather gradients for itself, unless the next pass is the last one before a step (`until`)."""
    if until or not isinstance(network, DistributedDataParallel):
        return contextlib.nullcontext()
    return network.no_sync()


@contextlib.contextmanager
def joined(world: World, device: torch.device, prepare: Callable[[], Value]) -> Iterator[Value]:
    """Connect the processes of a world, after each has prepared itself.

    Process 0 prepares first and alone, so that the others find what it leaves on disk. Connections are made afterwards,
    when nobody has to wait long for anybody; from then on, waiting for a process that is gone ends after some minutes.

    Args:
        world: Of this process.
        device: Where it computes; on a CUDA GPU they talk through NCCL, elsewhere through Gloo.
        prepare: What to do before.

    Raises:
        UserError: If another process did not come, or is gone.
    """
    if world.size == 1:
        yield prepare()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        store, _, _ = next(rendezvous("env://", timeout=_READY))
        # After a restart the store still holds the addresses of the processes before.
        store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        if not world.is_main:
            store.wait(["prepared"], _READY)
    except (dist.DistError, RuntimeError) as error:
        raise _lost(world, error) from error
    prepared = prepare()
    try:
        if world.is_main:
            store.set("prepared", "yes")
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=_STEP)
    except (dist.DistError, RuntimeError) as error:
        raise _lost(world, error) from error
    try:
        yield prepared
    except (dist.DistError, RuntimeError) as error:
        if not _is_about_the_connection(error):
            raise
        raise _lost(world, error) from error
    finally:
        dist.destroy_process_group()


def _is_about_the_connection(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "nccl", "connection"))


def _lost(world: World, error: Exception) -> UserError:
    first_line = str(error).strip().splitlines()[0][:200]
    return UserError(
        f"process {world.rank} of {world.size} lost the others ({first_line}); torchrun tells below which one ended "
        "first, and its own message says why; go on with --resume"
    )
