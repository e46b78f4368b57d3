"""Scaled dot-product attention, told twice: the equation written out, and the fused kernel.

    Attention(Q, K, V) = softmax(Q Kᵀ / sqrt(d)) V          (Vaswani et al., 2017, equation 1)

A query asks, every key answers with a score, and the output is the average of the values, weighted
by the softmax of the scores. Without the division by sqrt(d), scores of random vectors would grow
with sqrt(d) and the softmax would saturate.

`attention_reference` keeps the whole (queries × keys) matrix, so that one can look at it.
`attention_fused` gives the same numbers and never stores it; models train and decode with that.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_mask(num_queries: int, num_keys: int, device: torch.device | None = None) -> Tensor:
    """Which keys each query may see: its own position and those before it.

    The last query is at the last key's position. With `num_keys > num_queries` the first keys come
    from a cache, and every query sees all of them.

    Returns:
        Boolean (num_queries, num_keys), True where attention is allowed.

    >>> causal_mask(2, 4).int().tolist()
    [[1, 1, 1, 0], [1, 1, 1, 1]]
    """
    allowed = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)
    return allowed.tril(diagonal=num_keys - num_queries)


def attention_reference(
    queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention as the equation says it, with the weights returned.

    Args:
        queries: (..., num_queries, head_dim).
        keys: (..., num_keys, head_dim).
        values: (..., num_keys, value_dim).
        allowed: boolean, broadcastable to (..., num_queries, num_keys); False hides a key.
            A query that sees no key gets weights of nan, as in PyTorch.

    Returns:
        The output (..., num_queries, value_dim) and the weights (..., num_queries, num_keys).
    """
    scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)  # exp(-inf) = 0: no weight at all
    weights = scores.softmax(dim=-1)
    return weights @ values, weights


def attention_fused(queries: Tensor, keys: Tensor, values: Tensor, dropout: float = 0.0) -> Tensor:
    """Causal attention by PyTorch's fused kernel, grouped heads included.

    Args:
        queries: (batch, heads, num_queries, head_dim), at the last positions of the keys.
        keys: (batch, kv_heads, num_keys, head_dim); heads is a multiple of kv_heads.
        values: the shape of `keys`.
        dropout: probability of dropping an attention weight, during training only.

    Returns:
        (batch, heads, num_queries, head_dim).
    """
    num_queries, num_keys = queries.shape[-2], keys.shape[-2]
    grouped = queries.shape[1] != keys.shape[1]
    if num_queries == num_keys:
        return F.scaled_dot_product_attention(
            queries, keys, values, dropout_p=dropout, is_causal=True, enable_gqa=grouped
        )
    # Footgun: is_causal aligns the first query with the first key, which is wrong with a cache.
    # A single query sees every key and needs no mask; a chunk of them needs the shifted one.
    mask = None if num_queries == 1 else causal_mask(num_queries, num_keys, queries.device)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout, enable_gqa=grouped)
