"""Where the last token of a text looks, in every layer and head, for texts of any length.

The weights of all tokens are a square: 8,192 tokens in 30 layers of 9 heads would need 72 GB. The last token's are one
row of it. So the text before it is read as a prompt is read, by the fused kernel, which keeps no weights; its keys and
values are stored. Then the last token alone is computed with its weights recorded.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from itertools import takewhile

import torch
from torch import Tensor

from attention.attention_visualizer import record_attention, stack_layers
from optimization.kv_cache import ContiguousKVCache
from transformer.gpt_model import GPTModel

CHUNK = 512  # tokens of one pass: the activations of a long text would need much memory


class AttentionLook:
    """Reads texts with a model, and keeps the keys and values of the last one.

    People click through the tokens of one answer. Each look then computes only what the last one has not read.

    Args:
        model: for decoding; its weights are not changed.
        dtype: of its activations.
    """

    def __init__(self, model: GPTModel, dtype: torch.dtype):
        self._model, self._dtype = model, dtype
        self._store: ContiguousKVCache | None = None
        self._read: list[int] = []
        self._reader: str | None = None
        self._one_at_a_time = threading.Lock()

    def weights(self, tokens: Sequence[int], reader: str | None = None) -> Tensor:
        """The attention weights of the last token.

        Args:
            tokens: at most as many as the context has.
            reader: who asks; nobody can find out from the time that it takes what another has asked.

        Returns:
            (layers, heads, tokens); each row sums to 1.
        """
        with self._one_at_a_time, torch.inference_mode():
            store = self._store_for(len(tokens))
            pairs = zip(self._read, tokens[:-1], strict=False) if reader == self._reader else ()
            known = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            store.length, self._reader = known, reader
            del self._read[known:]  # what was read, even if a pass fails
            for start in range(known, len(tokens) - 1, CHUNK):
                chunk = list(tokens[start : min(start + CHUNK, len(tokens) - 1)])
                self._pass(chunk, store)
                self._read += chunk
            # The engine's steps on its own thread are not recorded: its paged cache attends by itself.
            with record_attention(self._model) as recorded:
                self._pass(tokens[-1:], store)
        return stack_layers(recorded)[:, :, -1]

    def _pass(self, tokens: Sequence[int], store: ContiguousKVCache) -> None:
        self._model.hidden_states(torch.tensor([list(tokens)], device=self._model.device), store)

    def _store_for(self, length: int) -> ContiguousKVCache:
        """The store, or one with twice the room; it is never larger than the context."""
        if self._store is None or self._store.capacity < length:
            config = self._model.config
            room = dataclasses.replace(config, context_length=min(config.context_length, 2 * length))
            self._store, self._read = ContiguousKVCache(room, 1, self._dtype, self._model.device), []
        return self._store


def largest(weights: Tensor, limit: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """As many of the largest weights of every row as there may be numbers.

    Args:
        weights: (layers, heads, tokens).
        limit: the most numbers; every row keeps at least 16.

    Returns:
        The weights that are kept, (layers, heads, kept), the place of each or None where all are kept, and the share of
        each row that is left out, (layers, heads).
    """
    layers, heads, tokens = weights.shape
    kept = max(16, limit // (layers * heads))
    if kept >= tokens:
        return weights, None, torch.zeros(layers, heads)
    largest, places = weights.topk(kept, dim=-1)
    return largest, places, (weights.sum(-1) - largest.sum(-1)).clamp(min=0.0)
