"""Scaled dot-product attention in three ways: loops, matrices, the fused kernel.

    Attention(Q, K, V) = softmax(Q Kᵀ / sqrt(d)) V          (Vaswani et al., 2017, equation 1)

A query asks, and every key answers with a score. The output is the average of the values, weighted
by the softmax of the scores. Without the division by sqrt(d), scores of random vectors would grow
with sqrt(d) and the softmax would saturate.

`attention_loops` computes it one number at a time. `attention_reference` is the equation in matrices. It
keeps the whole (queries × keys) matrix of weights, so that you can look at it. `attention_fused` gives
the same numbers and never stores that matrix. Models train and decode with it, and `flash_attention`
shows how that is possible.

python -m attention.scaled_dot_product
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from attention.cpu_attention import blocked_causal_attention, suits_blocked_attention
from attention.masks import causal_mask, require_key_for_each_query

Matrix = Sequence[Sequence[float]]


def attention_loops(queries: Matrix, keys: Matrix, values: Matrix, causal: bool = True) -> list[list[float]]:
    """Attention of one head in plain Python.

    Args:
        queries: one row of head_dim numbers for each query; the queries are at the last positions of the keys.
        keys: one row of head_dim numbers for each key.
        values: one row of numbers for each key.
        causal: whether later keys are hidden from a query.

    Returns:
        One row for each query: its weighted average of the values.

    Raises:
        ValueError: there are more queries than keys and `causal` is set, or there are not as many values as keys.

    >>> output = attention_loops([[1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [[10.0], [20.0]], causal=False)
    >>> round(output[0][0], 2)
    13.3
    """
    if causal:
        require_key_for_each_query(len(queries), len(keys))
    if len(keys) != len(values):
        raise ValueError(f"each key needs a value, got {len(keys)} keys and {len(values)} values")
    outputs = []
    cached = len(keys) - len(queries)
    for i, query in enumerate(queries):
        visible = cached + i + 1 if causal else len(keys)
        scores = [sum(q * k for q, k in zip(query, key, strict=True)) / math.sqrt(len(query)) for key in keys[:visible]]
        largest = max(scores)  # subtracted below so that exp cannot overflow; the quotient stays the same
        exponentials = [math.exp(score - largest) for score in scores]
        total = sum(exponentials)
        output = [0.0] * len(values[0])
        for exponential, value in zip(exponentials, values[:visible], strict=True):
            for j, number in enumerate(value):
                output[j] += exponential / total * number
        outputs.append(output)
    return outputs


def attention_reference(
    queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute attention as the equation says, and return the weights too.

    Args:
        queries: (..., heads, num_queries, head_dim), at the last positions of the keys.
        keys: (..., kv_heads, num_keys, head_dim); heads / kv_heads neighbouring query heads share each key-value head.
        values: (..., kv_heads, num_keys, value_dim).
        allowed: boolean, broadcastable to (..., heads, num_queries, num_keys); False hides a key. It is the whole
            mask, including causality. None is causal, and `torch.ones(1, 1, dtype=torch.bool)` shows every key.
            A query that sees no key gets weights of nan.
        bias: added to the scores, broadcastable to them.

    Returns:
        The output (..., heads, num_queries, value_dim) and the weights (..., heads, num_queries, num_keys).

    Raises:
        ValueError: `kv_heads` does not divide `heads`, or see `causal_mask`.
    """
    if queries.ndim > 2 and queries.shape[-3] != keys.shape[-3]:
        group = queries.shape[-3] // keys.shape[-3]
        if group * keys.shape[-3] != queries.shape[-3]:
            raise ValueError(f"kv_heads must divide heads: {queries.shape[-3]} / {keys.shape[-3]} is not whole")
        keys, values = keys.repeat_interleave(group, dim=-3), values.repeat_interleave(group, dim=-3)
    scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])
    if bias is not None:
        scores = scores + bias
    if allowed is None:
        allowed = causal_mask(queries.shape[-2], keys.shape[-2], device=queries.device)
    scores = scores.masked_fill(~allowed, -torch.inf)  # exp(-inf) = 0: no weight at all
    weights = scores.softmax(dim=-1)
    return weights @ values, weights


def attention_capped(
    queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None, bias: Tensor | None, softcap: float
) -> tuple[Tensor, Tensor]:
    """`attention_reference`, with scores kept smoothly within ± `softcap`: softcap · tanh(scores / softcap) (Gemma 2).

    The cap comes before the bias and the mask. Arguments, results and errors are those of `attention_reference`.
    """
    group = queries.shape[-3] // keys.shape[-3]
    scores = queries @ keys.repeat_interleave(group, dim=-3).transpose(-2, -1) / math.sqrt(queries.shape[-1])
    scores = softcap * (scores / softcap).tanh()
    # Queries of zeros have scores of zero, to which these are added.
    return attention_reference(
        torch.zeros_like(queries), keys, values, allowed, scores if bias is None else scores + bias
    )


def attention_fused(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    allowed: Tensor | None = None,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    """Attention by PyTorch's fused kernel, also for grouped heads; by `cpu_attention` where that is faster.

    Args:
        queries: (batch, heads, num_queries, head_dim), at the last positions of the keys.
        keys: (batch, kv_heads, num_keys, head_dim); heads is a multiple of kv_heads.
        values: the shape of `keys`.
        allowed: boolean, the whole mask as in `attention_reference`; None is causal, for which the kernel needs no
            mask and skips half the work.
        bias: added to the scores, broadcastable to them.
        dropout: probability of dropping an attention weight, during training only.
        softcap: see `attention_capped`. The kernel does not have it, so that all scores are kept in memory.

    Returns:
        (batch, heads, num_queries, head_dim).

    Raises:
        ValueError: the mask is not boolean, there are dropout and softcap, or see `causal_mask`.
    """
    # Trap: PyTorch adds a mask of numbers to the scores, so zeros and ones would hide nothing.
    if allowed is not None and allowed.dtype != torch.bool:
        raise ValueError(f"allowed must be boolean, got {allowed.dtype}; pass numbers to add to the scores as bias")
    if softcap is not None:
        if dropout:
            raise ValueError("attention with a softcap has no dropout of its weights; train with a dropout of 0")
        return attention_capped(queries, keys, values, allowed, bias, softcap)[0]
    num_queries, num_keys = queries.shape[-2], keys.shape[-2]
    grouped = queries.shape[1] != keys.shape[1]
    if allowed is None and bias is None and num_queries == num_keys:
        if not dropout and suits_blocked_attention(queries, keys):
            return blocked_causal_attention(queries, keys, values)
        return F.scaled_dot_product_attention(
            queries, keys, values, dropout_p=dropout, is_causal=True, enable_gqa=grouped
        )
    # Trap: is_causal aligns the first query with the first key, which is wrong with a cache.
    # A single query sees every key and needs no mask. Several queries need the shifted mask.
    if allowed is None and num_queries > 1:
        allowed = causal_mask(num_queries, num_keys, device=queries.device)
    mask = allowed
    if bias is not None:
        mask = bias if allowed is None else torch.where(allowed, bias, -torch.inf)
        mask = mask.to(queries.dtype)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout, enable_gqa=grouped)


def main() -> None:
    """Compute with all three on the same numbers and measure the time."""
    torch.manual_seed(0)
    length, head_dim = 256, 64
    q, k, v = (torch.randn(1, 1, length, head_dim) for _ in range(3))
    rows = [x[0, 0].tolist() for x in (q, k, v)]
    allowed = causal_mask(length, length)
    ways = {
        "loops": lambda: torch.tensor(attention_loops(rows[0], rows[1], rows[2])),
        "matrices": lambda: attention_reference(q, k, v, allowed)[0][0, 0],
        "fused": lambda: attention_fused(q, k, v)[0, 0],
    }
    print(f"causal attention of one head, {length} positions × {head_dim}\n")
    print("            seconds   largest difference from the loops")
    expected = ways["loops"]()
    for name, way in ways.items():
        way()
        start = time.perf_counter()
        output = way()
        seconds = time.perf_counter() - start
        print(f"{name:10} {seconds:9.6f}   {(output - expected).abs().max().item():.1e}")


if __name__ == "__main__":
    main()
