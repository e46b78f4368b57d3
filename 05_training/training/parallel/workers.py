"""The processes of a run: who they are, and how they agree.

`torchrun --nproc_per_node=N 05_training/train.py …` starts N copies of the program and tells each its rank.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")

Strategy = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class Workers:
    """The processes of a run, seen from one of them.

    Args:
        rank: which one this is, from 0.
        world_size: how many there are.
        strategy: how they share the model: ddp gives each a copy, fsdp a piece of every weight, gradient and moment.
    """

    rank: int = 0
    world_size: int = 1
    strategy: Strategy = "ddp"

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes files and prints."""
        return self.rank == 0

    @property
    def weights_are_split(self) -> bool:
        """Whether each process holds only a piece of the model."""
        return self.strategy == "fsdp" and self.world_size > 1

    def sum(self, *values: float) -> list[float]:
        """Add up numbers over all processes, each of which must call this."""
        if self.world_size == 1:
            return list(values)
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.tolist()

    def any(self, value: bool) -> bool:
        """Whether the value is true in some process: what one was told, such as to stop, all must know."""
        return self.sum(float(value))[0] > 0

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def on_main(self, work: Callable[[], T]) -> T:
        """Do something in the main process while the others wait; all get its result or its error."""
        if self.world_size == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = work()
            except Exception as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]


@contextmanager
def join_workers(device: str, strategy: Strategy) -> Iterator[Workers]:
    """Join the other processes that torchrun started, if there are any, and leave them at the end.

    Args:
        device: auto, cpu, cuda or mps, from the configuration; decides how the processes communicate.
        strategy: how they share the model.
    """
    if "WORLD_SIZE" not in os.environ:
        yield Workers()
        return
    on_gpu = device in ("auto", "cuda") and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if on_gpu else "gloo"
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" and os.environ.get("GROUP_WORLD_SIZE") == "1":
        # torchrun keeps its store over a restart, and with it the addresses of the processes that died. With its own
        # prefix, each attempt sees only its own. Several machines may count restarts differently, so they get none.
        store, rank, world_size = next(rendezvous("env://"))
        attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
        store = dist.PrefixStore(f"restart_{attempt}", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    else:
        dist.init_process_group(backend)
    try:
        yield Workers(dist.get_rank(), dist.get_world_size(), strategy)
    finally:
        dist.destroy_process_group()


# --- tensors of which each process holds a piece (`DTensor`), and those that are whole ------------
# PyTorch's module for them takes most of a second to import. It waits until there is such a tensor, because
# generating text and serving read checkpoints too.


def is_spread(tensor: Tensor) -> bool:
    """Whether this is a `DTensor`, of which the process holds a piece."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """A tensor brought together; if it is spread, every process must call this."""
    return tensor.full_tensor() if is_spread(tensor) else tensor  # type: ignore[attr-defined]


def spread_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor in the pieces that a parameter is in, or as it is if the parameter is whole.

    Args:
        parameter: spread or not.
        tensor: whole, of the same shape, and the same in every process.
    """
    if not is_spread(parameter):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)  # type: ignore[attr-defined]
