"""The model as a function of tensors only, for programs that record it: ONNX and TorchScript.

A recorder follows tensors, not Python's `if`. So everything that depends on a length (the mask, the positions) is
computed from tensors here. The recorded graph is then right for every batch size and length.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transformer.gpt_model import GPTModel


class GraphModel(nn.Module):
    """Token ids → logits, without a cache.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: GPTModel):
        super().__init__()
        self.model = model

    def forward(self, token_ids: Tensor) -> Tensor:
        """(batch, time) int64 → (batch, time, vocab)."""
        positions = torch.ones_like(token_ids).cumsum(dim=1) - 1  # (batch, time)
        allowed = _visible(self.model, positions[0], positions[0])
        return self.model(token_ids, positions=positions, allowed=allowed)


class CachedGraphModel(nn.Module):
    """Token ids and earlier keys and values → logits and all keys and values.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: GPTModel):
        super().__init__()
        self.model = model

    def forward(self, token_ids: Tensor, past: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One step of decoding, or the whole prompt with an empty past.

        Args:
            token_ids: (batch, time) int64.
            past: key and value of the first layer, then of the next, each (batch, kv_heads, past, head_dim).

        Returns:
            The logits, (batch, time, vocab), and `past` with the new keys and values at its end.
        """
        store = _GrowingStore(past)
        # Positions continue after the past. Its length is computed from a tensor, so that it stays variable.
        begun = torch.ones_like(past[0][0, 0, :, 0], dtype=torch.int64).sum()
        positions = begun + torch.ones_like(token_ids).cumsum(dim=1) - 1
        keys = torch.cat([torch.ones_like(past[0][0, 0, :, 0], dtype=torch.int64), torch.ones_like(token_ids[0])])
        allowed = _visible(self.model, positions[0], keys.cumsum(dim=0) - 1)
        logits = self.model(token_ids, store, positions=positions, allowed=allowed)
        return logits, store.present


class _GrowingStore:
    """A `KeyValueStore` that takes its content as tensors and gives it back as tensors."""

    def __init__(self, past: list[Tensor]):
        self.length = 0  # never read: positions and mask are given
        self._past = past
        self.present: list[Tensor] = []

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        joined = [torch.cat([self._past[2 * layer + which], new], dim=2) for which, new in enumerate((keys, values))]
        self.present += joined
        return joined[0], joined[1]

    def advance(self, num_tokens: int) -> None:
        pass


def _visible(model: GPTModel, queries: Tensor, keys: Tensor) -> Tensor:
    """The mask (1, 1, queries, keys), made from their positions, with sliding window and sinks."""
    distance = queries[:, None] - keys[None, :]
    allowed = distance >= 0
    window, sinks = model.config.window_of_all, model.config.attention_sinks
    if window is not None:
        allowed = allowed & ((distance < window) | (keys[None, :] < sinks))
    return allowed[None, None]
