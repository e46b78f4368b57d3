"""FlashAttention: exact attention in tiles, with memory linear in the length of the text.

The matrix form stores a weight for every pair of positions. This is not necessary, because a softmax
can be computed while its inputs arrive. For each query, keep the largest score so far m, the sum of
exponentials so far l, and the weighted sum of values so far a. When a tile of scores s with values V arrives:

    m' = max(m, max s)        l' = e^(m - m') l + Σ e^(s - m')        a' = e^(m - m') a + e^(s - m') V

The factor e^(m - m') corrects what was added under the old maximum (Milakov & Gimelshein, 2018:
"Online normalizer calculation for softmax"). At the end the output is a / l.

The backward pass needs the weights again. They are not stored but computed again from L = m + ln l,
which is one number a query: weight = e^(s - L) (Dao et al., 2022: "FlashAttention"; the order of loops
is that of Dao, 2023: "FlashAttention-2").

With outputs O and their gradients dO:

    D  = rowsum(dO ∘ O)                  one number a query; it is Σ_k weight_k · dweight_k
    dV = Wᵀ dO                           dW = dO Vᵀ
    dS = W ∘ (dW - D)                    the gradient of a softmax
    dQ = dS K / sqrt(d)                  dK = dSᵀ Q / sqrt(d)

This file has the algorithm in PyTorch operations, for reading and checking. `F.scaled_dot_product_attention`
does the same in one kernel. `flash_attention_triton` shows such a kernel for NVIDIA GPUs.

python -m attention.flash_attention
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attention.masks import causal_mask, require_key_for_each_query, visible_keys
from attention.scaled_dot_product import attention_fused, attention_reference
from groundwork.memory_meter import MemoryMeter

TILE = 64  # queries and keys in a tile; on a GPU a tile has to fit the memory next to the arithmetic


def flash_attention(queries: Tensor, keys: Tensor, values: Tensor, causal: bool = True, tile: int = TILE) -> Tensor:
    """Attention in tiles, forward and backward.

    Args:
        queries: (batch, heads, num_queries, head_dim), at the last positions of the keys.
        keys: (batch, kv_heads, num_keys, head_dim); heads is a multiple of kv_heads.
        values: the shape of `keys`.
        causal: whether later keys are hidden from a query.
        tile: queries and keys handled at a time.

    Returns:
        (batch, heads, num_queries, head_dim).

    Raises:
        ValueError: see `require_tileable`, or `tile` is below 1.
    """
    require_tileable(queries, keys, causal)
    if tile < 1:
        raise ValueError(f"a tile must hold at least one query and key, got {tile}")
    output: Tensor = _FlashAttention.apply(queries, keys, values, causal, tile)
    return output


def require_tileable(queries: Tensor, keys: Tensor, causal: bool) -> None:
    """Check what both forms in tiles need. Without this check they would return wrong numbers.

    Raises:
        ValueError: there are not four axes, the numbers are not floating-point, or there are more queries than keys
            and `causal` is set.
    """
    if queries.ndim != 4 or keys.ndim != 4 or not queries.is_floating_point():
        raise ValueError(
            "queries and keys must be floating-point (batch, heads, time, head_dim), got "
            f"{queries.dtype} {tuple(queries.shape)} and {tuple(keys.shape)}"
        )
    if causal:
        require_key_for_each_query(queries.shape[-2], keys.shape[-2])


class _FlashAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, causal: bool, tile: int) -> Tensor:
        outputs, log_sums = tiled_forward(queries, keys, values, causal, tile)
        ctx.save_for_backward(queries, keys, values, outputs, log_sums)  # nothing of size queries × keys
        ctx.causal, ctx.tile = causal, tile
        return outputs

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, outputs, log_sums = ctx.saved_tensors
        return *tiled_backward(q, k, v, outputs, log_sums, grad_outputs[0], ctx.causal, ctx.tile), None, None


def tiled_forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, tile: int) -> tuple[Tensor, Tensor]:
    """Compute the outputs, and for each query the logarithm of its sum of exponentials.

    Returns:
        (batch, heads, num_queries, head_dim) and (batch, heads, num_queries) in float32 or wider.
    """
    q, k, v = _group_heads(q, k, v)  # (batch, kv_heads, group, queries, head_dim), (batch, kv_heads, 1, keys, head_dim)
    accurate = torch.promote_types(q.dtype, torch.float32)
    outputs = torch.empty_like(q)
    log_sums = torch.empty(q.shape[:-1], dtype=accurate, device=q.device)
    for rows in _tiles(q.shape[-2], tile):
        q_tile = q[..., rows, :]
        maximum = torch.full(q_tile.shape[:-1], -torch.inf, dtype=accurate, device=q.device)
        total = torch.zeros_like(maximum)
        accumulated = torch.zeros(q_tile.shape, dtype=accurate, device=q.device)
        for columns in _visible_tiles(rows, q.shape[-2], k.shape[-2], tile, causal):
            scores = _scores(q_tile, k[..., columns, :], rows, columns, k.shape[-2] - q.shape[-2], causal, accurate)
            new_maximum = torch.maximum(maximum, scores.amax(dim=-1))
            correction = (maximum - new_maximum).exp()
            weights = (scores - new_maximum[..., None]).exp()  # not divided by their sum yet
            total = correction * total + weights.sum(dim=-1)
            accumulated = correction[..., None] * accumulated + weights @ v[..., columns, :].to(accurate)
            maximum = new_maximum
        outputs[..., rows, :] = (accumulated / total[..., None]).to(q.dtype)
        log_sums[..., rows] = maximum + total.log()
    return outputs.flatten(1, 2), log_sums.flatten(1, 2)


def tiled_backward(
    q: Tensor, k: Tensor, v: Tensor, outputs: Tensor, log_sums: Tensor, grad_outputs: Tensor, causal: bool, tile: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of queries, keys and values, each in the same shape as its tensor."""
    kv_heads, accurate = k.shape[1], log_sums.dtype
    delta = (grad_outputs.to(accurate) * outputs).sum(dim=-1)  # D: (batch, heads, queries)
    q, k, v = _group_heads(q, k, v)
    grad_outputs, log_sums, delta = (x.unflatten(1, (kv_heads, -1)) for x in (grad_outputs, log_sums, delta))
    scale = 1 / math.sqrt(q.shape[-1])
    grad_q = torch.zeros(q.shape, dtype=accurate, device=q.device)
    grad_k, grad_v = (torch.zeros(x.shape, dtype=accurate, device=q.device) for x in (k, v))
    for rows in _tiles(q.shape[-2], tile):
        q_tile, grad_tile = q[..., rows, :].to(accurate), grad_outputs[..., rows, :].to(accurate)
        for columns in _visible_tiles(rows, q.shape[-2], k.shape[-2], tile, causal):
            k_tile, v_tile = k[..., columns, :].to(accurate), v[..., columns, :].to(accurate)
            scores = _scores(q_tile, k_tile, rows, columns, k.shape[-2] - q.shape[-2], causal, accurate)
            weights = (scores - log_sums[..., rows, None]).exp()
            grad_scores = weights * (grad_tile @ v_tile.transpose(-2, -1) - delta[..., rows, None]) * scale
            # The heads of a group share a key and a value, which get the sum of the gradients of these heads.
            grad_v[..., columns, :] += (weights.transpose(-2, -1) @ grad_tile).sum(dim=2, keepdim=True)
            grad_k[..., columns, :] += (grad_scores.transpose(-2, -1) @ q_tile).sum(dim=2, keepdim=True)
            grad_q[..., rows, :] += grad_scores @ k_tile
    return grad_q.flatten(1, 2).to(q.dtype), grad_k.squeeze(2).to(k.dtype), grad_v.squeeze(2).to(v.dtype)


def _group_heads(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q.unflatten(1, (k.shape[1], -1)), k.unsqueeze(2), v.unsqueeze(2)


def _tiles(length: int, tile: int) -> list[slice]:
    return [slice(start, min(start + tile, length)) for start in range(0, length, tile)]


def _visible_tiles(rows: slice, num_queries: int, num_keys: int, tile: int, causal: bool) -> list[slice]:
    """The tiles of keys that some query of the tile sees. Skipping the others halves the work."""
    last = rows.stop + num_keys - num_queries if causal else num_keys
    return _tiles(last, tile)


def _scores(
    q_tile: Tensor, k_tile: Tensor, rows: slice, columns: slice, cached: int, causal: bool, accurate: torch.dtype
) -> Tensor:
    scores = q_tile.to(accurate) @ k_tile.to(accurate).transpose(-2, -1) / math.sqrt(q_tile.shape[-1])
    if causal and columns.stop > rows.start + cached + 1:  # the tile crosses the diagonal
        queries = torch.arange(rows.start + cached, rows.stop + cached, device=q_tile.device)
        keys = torch.arange(columns.start, columns.stop, device=q_tile.device)
        scores = scores.masked_fill(~visible_keys(queries, keys), -torch.inf)
    return scores


def peak_bytes(attention: Callable[[Tensor, Tensor, Tensor], Tensor], length: int) -> int:
    """Tensor memory at the peak of a forward and backward pass of one head of 64 dimensions, without the inputs."""
    q, k, v = (torch.randn(1, 1, length, 64, requires_grad=True) for _ in range(3))
    with MemoryMeter() as meter:
        attention(q, k, v).sum().backward()
    return meter.peak_bytes


def main() -> None:
    """Show that the memory of the tiled form grows linearly, and that the numbers are the same."""

    def matrices(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention_reference(q, k, v, causal_mask(q.shape[-2], k.shape[-2]))[0]

    print("peak memory of forward + backward, one head of 64 dimensions, float32, in MiB\n")
    print("positions   matrices     tiles   fused kernel   largest difference, tiles - matrices")
    for length in (256, 512, 1024, 2048, 4096):
        q, k, v = (torch.randn(1, 1, length, 64) for _ in range(3))
        difference = (flash_attention(q, k, v) - matrices(q, k, v)).abs().max().item()
        mib = [peak_bytes(f, length) / 2**20 for f in (matrices, flash_attention, attention_fused)]
        print(f"{length:>9}   {mib[0]:8.2f}  {mib[1]:8.2f}   {mib[2]:12.2f}   {difference:.1e}")


if __name__ == "__main__":
    main()
