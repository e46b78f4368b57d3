"""What the trainer asks of its data and its loss: the two things that differ between kinds of training.

Pretraining, instruction tuning, preference optimization and reinforcement learning are one loop. They
differ in what a batch holds and in how a loss is made of it, so the trainer is given a `BatchSource` and a
`LossFunction` and knows nothing more.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

IGNORED = -100  # a target of this value is not predicted: padding, or the user's side of a conversation
# (model, tensors of a batch) → the mean loss over what the batch counts, a scalar.
LossFunction = Callable[[nn.Module, dict[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Batch:
    """One micro-batch.

    Args:
        tensors: what the loss function is given, by name.
        weight: the number of things that its mean loss is taken over, such as predicted tokens. Micro-batches of
            one step are averaged with these weights, so that accumulating equals one large batch even where some
            hold more padding than others.
    """

    tensors: dict[str, Tensor]
    weight: float

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device; does not wait for a copy from pinned memory to a GPU."""
        return Batch({name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors.items()}, self.weight)

    def pinned(self) -> Batch:
        """The same batch in memory that a GPU can read by itself."""
        return Batch({name: tensor.pin_memory() for name, tensor in self.tensors.items()}, self.weight)


class BatchSource(Protocol):
    """Where batches come from. Its state must determine everything that comes next."""

    def next_batch(self, batch_size: int) -> Batch:
        """The next micro-batch of this process."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The present position, in JSON types."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        ...


class PrefetchingSource:
    """Draws the next batch into pinned memory, in a thread, while the model computes on this one.

    This is for a GPU: its work is queued, and the CPU is free in the meantime. Without a GPU, the CPU is busy itself.
    The state is that of the batches handed out; those drawn ahead are drawn again after a resume.

    Args:
        source: must not depend on the model's weights.
        batch_size: the only batch size that will be asked for.
        pin: whether to put batches in pinned memory, which needs CUDA.
    """

    def __init__(self, source: BatchSource, batch_size: int, pin: bool = True):
        self.source, self.batch_size, self.pin = source, batch_size, pin
        self._state = source.state_dict()
        self._thread: threading.Thread | None = None
        self._ready: queue.Queue[tuple[Batch, dict[str, Any]] | BaseException] = queue.Queue()

    def next_batch(self, batch_size: int) -> Batch:
        """The batch that was drawn ahead; starts on the one after it."""
        if batch_size != self.batch_size:
            raise ValueError(f"batches of {self.batch_size} are drawn ahead, and one of {batch_size} was asked for")
        if self._thread is None:
            self._start()
        drawn = self._ready.get()
        if isinstance(drawn, BaseException):
            raise drawn
        self._start()
        batch, self._state = drawn
        return batch

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._draw, daemon=True)
        self._thread.start()

    def _draw(self) -> None:
        try:
            batch = self.source.next_batch(self.batch_size)
            self._ready.put((batch.pinned() if self.pin else batch, self.source.state_dict()))
        except BaseException as error:
            self._ready.put(error)  # raised where the batch is asked for

    def state_dict(self) -> dict[str, Any]:
        """The source's state after the last batch that was handed out."""
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Forget what was drawn ahead and continue from there."""
        if self._thread is not None:
            self._thread.join()
            self._thread, self._ready = None, queue.Queue()
        self.source.load_state_dict(state)
        self._state = state
