"""Several processes as one trainer: how they share a model.

The model's file does not know about it; everything is applied from here:

- DDP (Li et al., 2020): every process has the whole model and a part of the batch; gradients are averaged
  while the backward pass still runs.
- FSDP2, `fully_shard` (Zhao et al., 2023): every process keeps a piece of each weight, gradient and optimizer
  state. The weights of a block are brought together only while it computes. The memory of a process
  becomes smaller with more processes.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from training.data.batches import LossFunction
from training.parallel.workers import Workers
from training.placement import Placement


class LossModule(nn.Module):
    """A model with its loss, so that a wrapper sees one forward pass from batch to loss.

    Args:
        model: what is trained.
        loss: makes the mean loss of a batch with it.
    """

    def __init__(self, model: nn.Module, loss: LossFunction):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, tensors: dict[str, Tensor]) -> Tensor:
        """The mean loss of a batch, a scalar."""
        return self.loss(self.model, tensors)


def parallelise(module: LossModule, placement: Placement, workers: Workers) -> nn.Module:
    """Make a module one of several that train together.

    Args:
        module: on its device, with the same weights in every process. Its model has `blocks`.
        placement: with a low precision, FSDP sends weights in it and sums gradients in float32.
        workers: the processes and how they share the model; one process alone leaves the module as it is.
    """
    if workers.world_size == 1:
        return module
    if workers.strategy == "ddp":
        return DistributedDataParallel(module)
    low = None if placement.precision == torch.float32 else placement.precision
    policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32)
    for block in module.model.blocks:  # type: ignore[union-attr]
        fully_shard(block, mp_policy=policy)
    fully_shard(module, mp_policy=policy)  # what is outside the blocks: embeddings, last norm, head
    return module


def synchronise(module: nn.Module, now: bool) -> AbstractContextManager[None]:
    """Inside this context, backward passes exchange gradients, or only add them up when it is not yet time.

    Accumulation needs one exchange a step, after the last micro-batch.
    """
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(now)
    elif isinstance(module, DistributedDataParallel) and not now:
        return module.no_sync()
    return contextlib.nullcontext()
