"""Several processes that train one network, as `torchrun` starts them; one process alone is a group of one."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from ft.errors import ConfigError
from ft.training.checks import check_device

LONGEST_WAIT = timedelta(hours=2)
"""Processes wait this long for each other: the first may read every file of a large library before the others begin."""


@dataclass(frozen=True)
class Group:
    """The processes of a run, seen from one of them."""

    device: torch.device
    rank: int = 0
    size: int = 1

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes, each of which must call this with a tensor of one shape; overwrites `values`."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
            values /= self.size
        return values

    def gather(self, value: Any) -> list[Any]:
        """Each process's value, by rank. All must call this."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until every process has come here."""
        if self.size > 1:
            torch.distributed.barrier()

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process runs the block before the others do. Where it raises, `torchrun` ends the others."""
        if self.rank:
            self.wait()
        yield
        if not self.rank:
            self.wait()

    def shard(self, network: nn.Module) -> None:
        """Leaves each process a share of every parameter (FSDP2); each part is whole while it runs."""
        from torch.distributed.fsdp import fully_shard

        # The logits are a view, which nobody changes in place.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
        for part in network.children():
            fully_shard(part, reshard_after_forward=True)
        # The outermost one would stay whole after a validation, and the next step run with the averaged weights.
        fully_shard(network, reshard_after_forward=True)

    def replicate(self, network: nn.Module, has_unused: bool) -> nn.Module:
        """`network` with gradients that are means over the processes (DDP).

        Args:
            has_unused: whether there are parameters that never get a gradient.
        """
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(network, find_unused_parameters=has_unused, gradient_as_bucket_view=True)


@contextlib.contextmanager
def processes(device: str) -> Iterator[Group]:
    """Gives the group that the environment of `torchrun` names, or this process alone.

    Raises:
        ConfigError: the device is not there, or not one for each process.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group(select_device(device))
        return
    chosen = _device_of_process(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=LONGEST_WAIT
    )
    try:
        yield Group(chosen, torch.distributed.get_rank(), size)
    finally:
        torch.distributed.destroy_process_group()


def _device_of_process(name: str, local_rank: int) -> torch.device:
    chosen = select_device(name)
    if chosen.type == "cpu":
        return chosen
    if chosen.index is not None:
        raise ConfigError(
            f"device '{name}' for several processes; expected cuda or cpu, each process takes a GPU of its own"
        )
    if local_rank >= (count := torch.cuda.device_count()):
        raise ConfigError(
            f"process {local_rank + 1} of this machine has no GPU, {count} seen; torchrun --nproc-per-node {count}"
        )
    return torch.device("cuda", local_rank)


def select_device(name: str) -> torch.device:
    """Gives the device for `auto`, `cpu` or `cuda[:N]`. Raises ConfigError for a GPU that is not there."""
    name = check_device(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device '{name}': {torch.cuda.device_count()} CUDA devices seen; use `device` cpu")
    return torch.device(name)


def whole(tensor: Tensor) -> Tensor:
    """Gives all of a tensor that is sharded over the processes, each of which must ask for it; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def own_part(tensor: Tensor) -> Tensor:
    """Gives what this process holds of a tensor, sharing its memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def sharded_like(value: Tensor, like: Tensor) -> Tensor:
    """`value`, which every process holds whole, laid out as `like` is."""
    if not hasattr(like, "device_mesh"):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
