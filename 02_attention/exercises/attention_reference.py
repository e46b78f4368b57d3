"""Exercise 2.5: Attention in matrices, with grouped heads."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attention.masks import causal_mask


def attention_reference(
    queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return softmax(Q Kᵀ / sqrt(head_dim) + bias) V and the weights, for any number of heads at once.

    If there are fewer key-value heads than query heads (GQA; Ainslie et al., 2023), each key-value head serves
    heads / kv_heads *neighbouring* query heads. With 4 heads and 2 kv_heads, query heads 0 and 1 read key-value head 0.

    Args:
        queries: (..., heads, num_queries, head_dim), at the last positions of the keys.
        keys: (..., kv_heads, num_keys, head_dim).
        values: (..., kv_heads, num_keys, value_dim).
        allowed: boolean, broadcastable to (..., heads, num_queries, num_keys). False hides a key, so its weight is 0.
            None is causal, `causal_mask(num_queries, num_keys)`.
        bias: added to the scaled scores, broadcastable to them.

    Returns:
        The output (..., heads, num_queries, value_dim) and the weights (..., heads, num_queries, num_keys).
    """
    raise NotImplementedError("Exercise 2.5: attention in matrices")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """One head; a mask; a bias; groups; values of another width; a large hidden score."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    yield Case(
        "one head, no mask: (1, 2, 3) queries, (1, 4, 3) keys", [random(1, 2, 3), random(1, 4, 3), random(1, 4, 3)]
    )
    qkv = [random(2, 2, 4, 8), random(2, 2, 4, 8), random(2, 2, 4, 8)]
    yield Case("a batch of two with two heads, no mask", qkv)
    yield Case("the same, every key visible", [*(x.clone() for x in qkv), torch.ones(1, 1, dtype=torch.bool)])
    yield Case("the same, a window of two", [*(x.clone() for x in qkv), causal_mask(4, 4, 2)])
    bias = random(2, 4, 4)
    yield Case("causal with a bias", [*(x.clone() for x in qkv), causal_mask(4, 4), bias])
    yield Case("4 query heads, 2 key-value heads", [random(1, 4, 3, 8), random(1, 2, 5, 8), random(1, 2, 5, 6)])
    yield Case(
        "4 query heads, 1 key-value head, causal",
        [random(1, 4, 3, 8), random(1, 1, 3, 8), random(1, 1, 3, 8), causal_mask(3, 3)],
    )
    column = torch.tensor([[[0.0], [400.0]]])
    yield Case(
        "a hidden key with a score of 400, while the visible key has 0",
        [torch.ones(1, 1, 1), column, column + 1, torch.tensor([[True, False]])],
    )
    yield Case("two new queries after a cache of three", [random(1, 2, 2, 8), random(1, 2, 5, 8), random(1, 2, 5, 8)])
    yield Case("4 heads, 2 key-value heads, no batch", [random(4, 2, 8), random(2, 4, 8), random(2, 4, 8)])
    masks = torch.stack([causal_mask(3, 3), torch.ones(3, 3, dtype=torch.bool)])[:, None]
    yield Case(
        "a batch of two, each with its own mask",
        [random(2, 2, 3, 4), random(2, 2, 3, 4), random(2, 2, 3, 4), masks],
    )
    yield Case(
        "grouped heads, a bias for each head, and no mask",
        [random(2, 4, 3, 8), random(2, 2, 3, 8), random(2, 2, 3, 8), None, random(4, 3, 3)],
    )
    yield Case("one query with large scores and one with small ones", [
        torch.tensor([[[900.0], [-900.0]]], dtype=torch.float64),
        torch.tensor([[[1.0], [2.0]]], dtype=torch.float64),
        torch.tensor([[[1.0], [2.0]]], dtype=torch.float64),
        torch.ones(1, 1, dtype=torch.bool),
    ])  # fmt: skip


def _variant(
    queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None, bias: Tensor | None, **wrong: bool
) -> tuple[Tensor, Tensor]:
    group = queries.shape[-3] // keys.shape[-3]
    if allowed is None:
        shape = queries.shape[-2], keys.shape[-2]
        allowed = torch.ones(shape, dtype=torch.bool) if wrong.get("all_visible") else causal_mask(*shape)
    if wrong.get("interleaved"):
        keys, values = (
            keys.repeat(1, group, 1, 1) if keys.ndim == 4 else keys,
            values.repeat(1, group, 1, 1) if values.ndim == 4 else values,
        )
    else:
        keys, values = keys.repeat_interleave(group, dim=-3), values.repeat_interleave(group, dim=-3)
    width = queries.shape[-1] if not wrong.get("unscaled") else 1
    scores = queries @ keys.transpose(-2, -1) / math.sqrt(width)
    if bias is not None and not wrong.get("no_bias"):
        scores = scores + bias / (math.sqrt(width) if wrong.get("bias_divided") else 1)
    if wrong.get("late_mask") or wrong.get("renormalised"):
        weights = scores.softmax(dim=-1).masked_fill(~allowed, 0.0)
        weights = weights / weights.sum(dim=-1, keepdim=True) if wrong.get("renormalised") else weights
    elif wrong.get("multiplied"):
        weights = (scores * allowed).softmax(dim=-1)
    else:
        shown = allowed if not wrong.get("inverted") else ~allowed
        scores = scores.masked_fill(~shown, -torch.inf)
        weights = scores.softmax(dim=-2 if wrong.get("over_queries") else -1)
    return weights @ values, weights


def _mistaken(name: str) -> Any:
    def attention_reference(
        queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None = None, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return _variant(queries, keys, values, allowed, bias, **{name: True})

    return attention_reference


EXERCISE = Exercise(
    stub=attention_reference,
    reference="attention.scaled_dot_product:attention_reference",
    cases=cases,
    differentiable=True,
    hints=(
        "@ multiplies the last two axes of tensors and treats all axes before them as a batch. So you need no loop over heads.",
        "Give keys and values as many heads as the queries, with repeat_interleave on axis -3. Without a mask take the "
        "causal one. Fill hidden scores with -inf before the softmax, which runs over the keys.",
        "scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1]); add bias; "
        "scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1); weights @ values.",
    ),
    mistakes=(
        Mistake(_mistaken("unscaled"), "the scores are not divided by sqrt(head_dim)"),
        Mistake(
            _mistaken("over_queries"), "the softmax runs over the keys, the last axis: each query's weights sum to 1"
        ),
        Mistake(_mistaken("inverted"), "allowed is True where the key may be seen; fill where it is False"),
        Mistake(
            _mistaken("late_mask"), "the mask comes before the softmax: otherwise hidden keys take part in the sum"
        ),
        Mistake(
            _mistaken("renormalised"),
            "the mask comes before the softmax: a large hidden score makes the weights of the visible keys 0, and a "
            "division by their sum does not bring them back",
        ),
        Mistake(
            _mistaken("multiplied"),
            "a hidden score becomes -inf; a score of 0 still gets a weight, e^0 over the sum",
        ),
        Mistake(
            _mistaken("all_visible"), "without a mask attention is causal: allowed = causal_mask(num_queries, num_keys)"
        ),
        Mistake(_mistaken("no_bias"), "the bias is not added to the scores"),
        Mistake(_mistaken("bias_divided"), "the bias is added after the division by sqrt(head_dim)"),
        Mistake(
            _mistaken("interleaved"),
            "neighbouring query heads share a key-value head: 0 0 1 1, which is repeat_interleave, not 0 1 0 1, which is repeat",
        ),
    ),
)
