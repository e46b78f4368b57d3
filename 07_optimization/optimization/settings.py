"""How an engine divides its time and memory among requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from optimization.kv_cache import bytes_per_token
from transformer.config import GPTConfig

MEMORY_SHARE = 0.9  # of the free memory; a forward pass needs some too


@dataclass(frozen=True)
class EngineSettings:
    """Limits and choices of an `Engine`.

    Args:
        max_running: the most requests that are computed in one step.
        max_waiting: the most requests that may wait for a place; more are refused.
        block_size: tokens in a block of the cache.
        cache_tokens: tokens that the cache holds. With null, it holds a full context for each of `max_running`
            requests, or less if `cache_mib` allows less.
        cache_mib: the most memory that the cache takes if `cache_tokens` is null. There is room for one full context
            even if it takes more, as far as this machine has the memory. On a CPU, the memory is taken as it is used.
        cache_dtype: `auto` is float32 on a CPU, where attention over bfloat16 is slower, and the model's
            type elsewhere. `int8` takes a quarter of the memory of float32.
        chunk_size: tokens of a prompt that pass through the model in one step, so that a long prompt does
            not delay the requests that are decoding.
        max_batch_tokens: the most prompt tokens of all requests in one step, at least `chunk_size`.
        prefix_sharing: let requests share blocks if they begin with the same tokens.
        batching: `continuous` fills a place as soon as it is free; `static` waits until the whole batch is
            done.
        pack_weights: arrange the weights for the CPU's loops and matrix kernels when loading.
        compile: let `torch.compile` fuse norms and feed-forward of each block, for CUDA. The first answers
            then come late. On a CPU it is refused unless `pack_weights` is false.
    """

    max_running: int = 16
    max_waiting: int = 1024
    block_size: int = 16
    cache_tokens: int | None = None
    cache_mib: int = 1024
    cache_dtype: Literal["auto", "float32", "bfloat16", "float64", "int8"] = "auto"
    chunk_size: int = 128
    max_batch_tokens: int = 512
    prefix_sharing: bool = True
    batching: Literal["static", "continuous"] = "continuous"
    pack_weights: bool = True
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("max_running", "max_waiting", "block_size", "cache_mib", "chunk_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_batch_tokens < self.chunk_size:
            raise ValueError(
                f"max_batch_tokens ({self.max_batch_tokens}) must be at least chunk_size ({self.chunk_size})"
            )
        if self.cache_tokens is not None and self.cache_tokens < self.block_size:
            raise ValueError(
                f"cache_tokens ({self.cache_tokens}) must be at least one block of {self.block_size} tokens"
            )

    def storage_dtype(self, model_dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """The type that keys and values are stored in."""
        if self.cache_dtype == "auto":
            return torch.promote_types(model_dtype, torch.float32) if device.type == "cpu" else model_dtype
        return getattr(torch, self.cache_dtype)

    def num_blocks(self, config: GPTConfig, dtype: torch.dtype, free_memory: int) -> int:
        """The number of blocks in the cache.

        Args:
            config: the model's configuration.
            dtype: the type of keys and values.
            free_memory: bytes that the device has left.

        Raises:
            ValueError: the cache does not fit into them.
        """
        size = bytes_per_token(config, dtype) * self.block_size
        most = int(MEMORY_SHARE * free_memory) // size
        if self.cache_tokens is not None:
            wanted = smallest = self.cache_tokens // self.block_size
        else:
            context = -(-config.context_length // self.block_size)
            wanted = max(context, min(self.max_running * context, self.cache_mib * 2**20 // size))
            smallest = 1
        if most < smallest:
            raise ValueError(
                f"a cache of {smallest * self.block_size:,} tokens takes {smallest * size / 2**30:.2f} GiB, and "
                f"{free_memory / 2**30:.2f} GiB are free: lower cache_tokens or block_size, or use cache_dtype int8"
            )
        return min(wanted, most)
