"""Exercise 2.7: FlashAttention forwards: a softmax in pieces."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attention.masks import visible_keys


def tiled_forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, tile: int) -> tuple[Tensor, Tensor]:
    """Attention in tiles of keys, with the sums that the backward pass needs.

    For each query, keep the largest score so far m, the sum of exponentials l, and the weighted sum of values a. When a
    tile of scores s with values V arrives (s = q · k / sqrt(head_dim), and -inf where the key is hidden):

        m' = max(m, max s)        l' = e^(m - m') l + Σ e^(s - m')        a' = e^(m - m') a + e^(s - m') V

    They begin at m = -inf, l = 0, a = 0. At the end the output is a / l, and the second result is m + ln l.

    There must never be a tensor of scores for all keys: take `tile` keys at a time. (A GPU needs the queries in tiles
    too. You do not need to do that.) What you make yourself belongs on the device of `q`.

    Args:
        q: (batch, heads, num_queries, head_dim), at the last positions of the keys.
        k: (batch, kv_heads, num_keys, head_dim); each key-value head serves heads / kv_heads neighbouring query heads.
        v: the shape of `k`.
        causal: whether later keys are hidden from a query; use `visible_keys(query_positions, key_positions)`.
        tile: how many keys to take at a time.

    Returns:
        The outputs (batch, heads, num_queries, head_dim) and m + ln l, (batch, heads, num_queries).
    """
    raise NotImplementedError("Exercise 2.7: the online softmax")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def _random(*shapes: tuple[int, ...], scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def cases() -> Iterator[Case]:
    """One tile; several; causal; a cache; large scores; groups; the last tile shorter."""
    same = (1, 2, 6, 4)
    yield Case("one tile holds all keys, not causal", [*_random(same, same, same), False, 8])
    yield Case("three tiles of two keys, not causal", [*_random(same, same, same), False, 2])
    yield Case("three tiles, causal", [*_random(same, same, same), True, 2])
    yield Case("scores up to a hundred, the largest late", [*_random(same, same, same, scale=6.0), False, 2])
    yield Case("two new queries after a cache of five", [*_random((1, 2, 2, 4), (1, 2, 7, 4), (1, 2, 7, 4)), True, 3])
    yield Case(
        "4 heads, 2 key-value heads, the last tile shorter",
        [*_random((2, 4, 5, 4), (2, 2, 5, 4), (2, 2, 5, 4)), True, 3],
    )
    apart = torch.tensor([[[[-40.0, 0.0], [40.0, 0.0]]]], dtype=torch.float64)
    keys = 50.0 + torch.arange(4.0, dtype=torch.float64).repeat(2, 1).T[None, None]
    yield Case("one query with large scores and one with small ones", [apart, keys, keys / 50, False, 2])
    yield Case("scores near -1,000 that become larger, causal", [apart[:, :, :1], keys, keys / 50, True, 1])
    yield Case("one key in each tile", [*_random(same, same, same), True, 1])
    yield Case("heads of 6, one query", [*_random((1, 3, 1, 6), (1, 1, 5, 6), (1, 1, 5, 6)), True, 2])
    long = [x.float() for x in _random((1, 1, 256, 8), (1, 1, 1024, 8), (1, 1, 1024, 8))]
    # All scores of 256 queries and 1,024 keys take 1 MiB.
    yield Case("1,024 keys in tiles of 64, and memory counted", [*long, False, 64], tolerance=1e-4, most_bytes=1 << 19)


def _variant(q: Tensor, k: Tensor, v: Tensor, causal: bool, tile: int, **wrong: bool) -> tuple[Tensor, Tensor]:
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    num_queries, num_keys = q.shape[2], k.shape[2]
    start_of_queries = 0 if wrong.get("first_aligned") else num_keys - num_queries
    positions = torch.arange(start_of_queries, start_of_queries + num_queries)
    m = torch.full(q.shape[:-1], -torch.inf, dtype=q.dtype)
    total = torch.zeros_like(m)
    a = torch.zeros_like(q)
    for start in range(0, num_keys, tile):
        columns = torch.arange(start, min(start + tile, num_keys))
        s = q @ k[:, :, columns].transpose(-2, -1) / (1 if wrong.get("unscaled") else math.sqrt(q.shape[-1]))
        if causal:
            key_positions = columns - start if wrong.get("from_zero") else columns
            s = s.masked_fill(~visible_keys(positions, key_positions), -torch.inf)
        new_m = torch.maximum(m, s.amax(dim=-1))
        correction = (m - new_m).exp()
        if wrong.get("uncorrected"):
            correction = torch.ones_like(correction)
        weights = (s - (s.amax(dim=-1) if wrong.get("own_maximum") else new_m)[..., None]).exp()
        total = correction * total + weights.sum(dim=-1)
        a = (a if wrong.get("sum_only") else correction[..., None] * a) + weights @ v[:, :, columns]
        m = new_m
    log_sums = total.log() if wrong.get("sum_alone") else m + total.log()
    return (a if wrong.get("undivided") else a / total[..., None]), log_sums


def _mistaken(name: str) -> Callable[..., Any]:
    def tiled_forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, tile: int) -> tuple[Tensor, Tensor]:
        return _variant(q, k, v, causal, tile, **{name: True})

    return tiled_forward


def _whole(q: Tensor, k: Tensor, v: Tensor, causal: bool, tile: int) -> tuple[Tensor, Tensor]:
    return _variant(q, k, v, causal, k.shape[2])


EXERCISE = Exercise(
    stub=tiled_forward,
    reference="attention.flash_attention:tiled_forward",
    cases=cases,
    hints=(
        "One loop over range(0, num_keys, tile). Repeat keys and values over the heads of a group first.",
        "In the loop, compute the scores of this tile (-inf where hidden), the new maximum, and the correction e^(m - m'). "
        "Multiply both l and a by the correction, then add this tile's share to both.",
        "new_m = torch.maximum(m, s.amax(-1)); c = (m - new_m).exp(); w = (s - new_m[..., None]).exp(); "
        "l = c * l + w.sum(-1); a = c[..., None] * a + w @ v_tile; m = new_m. This works for the first tile too, since e^(-inf) = 0.",
    ),
    mistakes=(
        Mistake(_mistaken("undivided"), "at the end a is divided by l"),
        Mistake(_mistaken("sum_alone"), "the second result is m + ln l; ln l alone is relative to the maximum"),
        Mistake(_mistaken("sum_only"), "what was added to a under the old maximum must be corrected too, not only l"),
        Mistake(
            _mistaken("uncorrected"),
            "when the maximum changes, what was added under the old one is multiplied by e^(m - m')",
        ),
        Mistake(
            _whole,
            "the scores of all keys are held at the same time: take `tile` keys, and drop their scores before the next tile",
        ),
        Mistake(_mistaken("unscaled"), "the scores are not divided by sqrt(head_dim)"),
        Mistake(_mistaken("own_maximum"), "the new tile is also relative to m', the largest score so far: e^(s - m')"),
        Mistake(_mistaken("from_zero"), "the keys of a tile stand at positions start, start + 1, …, not at 0, 1, …"),
        Mistake(_mistaken("first_aligned"), "the queries stand at the last positions of the keys"),
    ),
)
