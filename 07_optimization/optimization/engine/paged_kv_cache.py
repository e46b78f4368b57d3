"""The tensors of the blocks, and attention over them for many sequences of different lengths at once.

A step of the engine is one row of tokens: the next token of some sequences and a piece of the prompt of
others, side by side without padding. Linear layers and norms treat every token in the same way, so they need not
know which sequence a token belongs to. Attention must know. A `RaggedBatch` writes the new keys and values into their
slots and lets each sequence read its own. Each sequence is computed separately, so that its numbers do not depend on
the other sequences, to the last bit.
"""

from __future__ import annotations

import math
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attention.masks import visible_keys
from attention.multi_head_attention import RaggedStore, ScoreBias
from attention.scaled_dot_product import attention_fused
from optimization.engine.block_pool import BlockTable
from transformer.config import GPTConfig

Runs = list[tuple[int, int, int]]


class BlockStorage(ABC):
    """Keys and values of all blocks and layers, addressed by slot: block · block_size + place in the block."""

    @abstractmethod
    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store keys and values (tokens, kv_heads, head_dim) in the given slots (tokens,)."""

    @abstractmethod
    def read(self, layer: int, runs: Runs, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of stretches of slots in `dtype`, each (1, kv_heads, tokens, head_dim)."""

    @abstractmethod
    def arrays(self) -> tuple[Any, Any]:
        """The memory on the CPU as arrays: `memory` and `scales` of `optimization.kernels.arrays.Cache`."""


class FloatStorage(BlockStorage):
    """Keys and values as floating-point numbers.

    Args:
        config: the model.
        num_slots: blocks · block_size.
        dtype: of keys and values.
        device: where the model is.
    """

    def __init__(self, config: GPTConfig, num_slots: int, dtype: torch.dtype, device: torch.device):
        # In the order of tokens, so that the slots of a block and of neighbouring blocks are one piece of memory.
        shape = (config.num_layers, 2, num_slots, config.kv_heads, config.head_size)
        self._memory = zeros_on_demand(shape, dtype, device)
        self._slots = [(layer[0], layer[1]) for layer in self._memory]  # each (slots, kv_heads, head_dim)
        self._heads = [(k.transpose(0, 1)[None], v.transpose(0, 1)[None]) for k, v in self._slots]

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """See `BlockStorage.write`."""
        k, v = self._slots[layer]
        k.index_copy_(0, slots, keys.to(k.dtype))
        v.index_copy_(0, slots, values.to(v.dtype))

    def read(self, layer: int, runs: Runs, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """See `BlockStorage.read`. It returns views of the memory if the blocks are neighbours, otherwise copies."""
        k, v = self._heads[layer]
        if len(runs) == 1:
            _, slot, length = runs[0]
            return k.narrow(2, slot, length).to(dtype), v.narrow(2, slot, length).to(dtype)
        return (
            torch.cat([k.narrow(2, slot, length) for _, slot, length in runs], dim=2).to(dtype),
            torch.cat([v.narrow(2, slot, length) for _, slot, length in runs], dim=2).to(dtype),
        )

    def arrays(self) -> tuple[Any, Any]:
        """See `BlockStorage.arrays`."""
        bits = self._memory.view(torch.uint16) if self._memory.dtype == torch.bfloat16 else self._memory
        return bits.numpy(), torch.empty(0).numpy()


class Int8Storage(BlockStorage):
    """Keys and values in 8 bits: x ≈ scale · q, with one scale for each token and head.

    They take a quarter of float32's memory, or half of bfloat16's, and a scale of 4 bytes for each vector.

    Args:
        config: the model.
        num_slots: blocks · block_size.
        device: where the model is.
    """

    def __init__(self, config: GPTConfig, num_slots: int, device: torch.device):
        shape = (config.num_layers, 2, num_slots, config.kv_heads, config.head_size)
        self._memory = zeros_on_demand(shape, torch.int8, device)
        self._scales = zeros_on_demand((*shape[:-1], 1), torch.float32, device)

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """See `BlockStorage.write`."""
        for which, vectors in enumerate((keys, values)):
            scale = (vectors.float().abs().amax(dim=-1, keepdim=True) / 127).clamp(min=1e-12)
            self._memory[layer, which].index_copy_(0, slots, (vectors.float() / scale).round().to(torch.int8))
            self._scales[layer, which].index_copy_(0, slots, scale)

    def read(self, layer: int, runs: Runs, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """See `BlockStorage.read`."""
        pair = []
        for which in range(2):
            memory, scales = self._memory[layer, which], self._scales[layer, which]
            pieces = [memory[slot : slot + n].to(dtype) * scales[slot : slot + n].to(dtype) for _, slot, n in runs]
            pair.append(torch.cat(pieces).transpose(0, 1)[None])
        return pair[0], pair[1]

    def arrays(self) -> tuple[Any, Any]:
        """See `BlockStorage.arrays`."""
        return self._memory.numpy(), self._scales.numpy()


def zeros_on_demand(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of zeros. On a CPU, the system provides each page when something is first written to it.

    A cache for a long context is large, and most of it is never used. With `torch.zeros`, all of it would be taken and
    written at the start. Zeros are needed because memory that is masked out is multiplied by 0, and 0 · nan is nan.

    Raises:
        ValueError: the memory cannot be had.
    """
    size = math.prod(shape) * dtype.itemsize
    try:
        if device.type != "cpu":
            return torch.zeros(shape, dtype=dtype, device=device)
        private = {} if os.name == "nt" else {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
        return torch.frombuffer(mmap.mmap(-1, size, **private), dtype=dtype).view(shape)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"there is no memory for a cache of {size / 2**30:.2f} GiB ({reason}): lower cache_mib or cache_tokens, or "
            "use cache_dtype int8"
        ) from None


def build_storage(config: GPTConfig, num_slots: int, dtype: torch.dtype, device: torch.device) -> BlockStorage:
    """`Int8Storage` for int8, otherwise `FloatStorage`."""
    if dtype == torch.int8:
        return Int8Storage(config, num_slots, device)
    return FloatStorage(config, num_slots, dtype, device)


@dataclass
class RaggedRow:
    """One sequence's part of a step.

    Args:
        table: its blocks, with room for the new tokens.
        start: position of the first new token; the earlier ones are stored.
        count: new tokens.
    """

    table: BlockTable
    start: int
    count: int
    runs: Runs = field(init=False)
    masks: dict[int | None, Tensor] = field(default_factory=dict)  # by the window of the layer
    key_positions: Tensor | None = None

    def prepare(self, config: GPTConfig, device: torch.device) -> None:
        """Find out once, for all layers, which slots are read and what each query sees of them."""
        stop = self.start + self.count
        self.runs = self.table.runs(stop)
        for window in {config.window_of(layer) for layer in range(config.num_layers)}:
            if (window is not None and window < stop) or (self.start and self.count > 1):
                keys = torch.cat([torch.arange(first, first + length) for first, _, length in self.runs])
                allowed = visible_keys(torch.arange(self.start, stop), keys, window, config.attention_sinks)
                self.masks[window], self.key_positions = allowed.to(device)[None, None], keys.to(device)


class RaggedBatch(RaggedStore):
    """The store of one forward pass over the tokens of several sequences, laid end to end.

    Args:
        storage: where keys and values lie.
        rows: the sequences, in the order of their tokens.
        config: the model.
        dtype: of its activations.
        device: where it is.
    """

    def __init__(
        self,
        storage: BlockStorage,
        rows: list[RaggedRow],
        config: GPTConfig,
        dtype: torch.dtype,
        device: torch.device,
    ):
        self._storage, self._rows, self._config = storage, rows, config
        # For a single query, PyTorch's CPU kernel takes three to five times as long in bfloat16.
        self._precision = torch.promote_types(dtype, torch.float32) if device.type == "cpu" else dtype
        slots = [slot for row in rows for slot in row.table.slots(row.start, row.start + row.count)]
        self._slots = torch.tensor(slots, device=device)
        for row in rows:
            row.prepare(config, device)

    def positions(self) -> list[int]:
        """The position of each token in its text."""
        return [position for row in self._rows for position in range(row.start, row.start + row.count)]

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, score_bias: ScoreBias | None) -> Tensor:
        """See `RaggedStore.attend`. Tokens after those of the rows only fill the batch to its smallest size."""
        count, filling = len(self._slots), queries.shape[2] - len(self._slots)
        k_new, v_new = keys[0, :, :count].transpose(0, 1), values[0, :, :count].transpose(0, 1)
        self._storage.write(layer, self._slots, k_new, v_new)
        computed = queries.to(self._precision)
        window, softcap = self._config.window_of(layer), self._config.attention_softcap
        outputs, offset = [], 0
        for row in self._rows:
            q = computed.narrow(2, offset, row.count)
            k, v = self._storage.read(layer, row.runs, q.dtype)
            bias = None
            if score_bias is not None:
                bias = score_bias(row.count, row.start + row.count)
                if row.key_positions is not None:
                    bias = bias[..., row.key_positions]
            outputs.append(attention_fused(q, k, v, row.masks.get(window), bias, softcap=softcap))
            offset += row.count
        if filling:
            outputs.append(computed.narrow(2, count, filling))  # they belong to no sequence: the output is not read
        heads = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
        return heads.to(queries.dtype)

    def advance(self, num_tokens: int) -> None:
        """Do nothing: `apply_logits` tells each table how many tokens were accepted."""
