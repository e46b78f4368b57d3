"""A contiguous key-value cache: it keeps what was computed for earlier tokens, so that it is not computed again.

Without it, token n costs a forward pass over n tokens, about n² / 2 tokens in total for a text of n tokens.
With it, every token passes through the model once. The price is memory: for each token, two vectors (key and value)
of kv_heads · head_dim numbers in every layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from transformer.config import GPTConfig


class CacheFullError(ValueError):
    """More tokens than the cache has room for."""


def bytes_per_token(config: GPTConfig, dtype: torch.dtype) -> int:
    """Bytes for the keys and values of one token in all layers. For int8, the scales are included."""
    vector = config.head_size * dtype.itemsize + (4 if dtype == torch.int8 else 0)
    return 2 * config.num_layers * config.kv_heads * vector


class ContiguousKVCache:
    """One preallocated block for each layer, filled from the front. Implements `attention`'s `KeyValueStore`.

    Args:
        config: the model's configuration; its `context_length` is the capacity of the cache.
        batch_size: sequences, all of the same length.
        dtype: the type of keys and values.
        device: where the model is.
    """

    def __init__(
        self,
        config: GPTConfig,
        batch_size: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        shape = (config.num_layers, batch_size, config.kv_heads, config.context_length, config.head_size)
        self._keys = torch.empty(shape, dtype=dtype, device=device)
        self._values = torch.empty(shape, dtype=dtype, device=device)
        self.capacity = config.context_length
        self.length = 0

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values after the stored ones; return views of all of them.

        Args:
            layer: index of the layer.
            keys: (batch, kv_heads, time, head_dim).
            values: the shape of `keys`.

        Raises:
            CacheFullError: they do not fit.
            ValueError: the batch size or the number of heads differs from the cache's.
        """
        if keys.shape != values.shape or keys.shape[:2] != self._keys.shape[1:3]:
            raise ValueError(
                f"the cache is for keys and values of {tuple(self._keys.shape[1:3])} sequences and heads, got the shapes "
                f"{tuple(keys.shape)} and {tuple(values.shape)}"
            )
        stop = self.length + keys.shape[-2]
        if stop > self.capacity:
            raise CacheFullError(f"{stop} tokens do not fit a cache of {self.capacity}")
        self._keys[layer, :, :, self.length : stop] = keys
        self._values[layer, :, :, self.length : stop] = values
        return self._keys[layer, :, :, :stop], self._values[layer, :, :, :stop]

    def advance(self, num_tokens: int) -> None:
        """Count the tokens of a finished forward pass."""
        self.length += num_tokens
