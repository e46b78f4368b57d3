"""Exercise 2.1: Attention, one number at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

Matrix = Sequence[Sequence[float]]


def attention_loops(queries: Matrix, keys: Matrix, values: Matrix, causal: bool = True) -> list[list[float]]:
    """Attention of one head in plain Python (Vaswani et al., 2017, equation 1).

        score(query, key) = query · key / sqrt(head_dim)
        weights           = softmax of the scores of one query over all keys that it sees
        output            = sum of weight · value

    The queries stand at the last positions of the keys: with 2 queries and 5 keys, the first query is at position 3 and
    the second at position 4 (counted from 0). If causal, a query sees its own position and those before it.

    Args:
        queries: one row of head_dim numbers for each query.
        keys: one row of head_dim numbers for each key.
        values: one row of numbers for each key; their number may differ from head_dim.
        causal: whether later keys are hidden from a query.

    Returns:
        One row for each query.

    >>> output = attention_loops([[1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [[10.0], [20.0]], causal=False)
    >>> round(output[0][0], 2)
    13.3
    """
    raise NotImplementedError("Exercise 2.1: attention with loops")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from learn.exercise import Case, Exercise, Mistake


def _by_torch(queries: Matrix, keys: Matrix, values: Matrix, causal: bool) -> list[list[float]]:
    q, k, v = (torch.tensor(rows, dtype=torch.float64)[None, None] for rows in (queries, keys, values))
    mask = torch.ones(len(queries), len(keys), dtype=torch.bool)
    mask = mask.tril(len(keys) - len(queries)) if causal else mask
    rows: list[list[float]] = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0, 0].tolist()
    return rows


def cases() -> Iterator[Case]:
    """One query; several; causal; a cache; huge scores. The expected values come from PyTorch's kernel."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(5, size, generator=generator, dtype=torch.float64).tolist() for size in (5, 5, 3))
    huge = [[30.0 * number for number in row] for row in q]
    questions: list[tuple[str, Matrix, Matrix, Matrix, bool]] = [
        ("one query and two keys", [[1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [[10.0], [20.0]], False),
        ("five queries, not causal", q, k, v, False),
        ("five queries, causal", q, k, v, True),
        ("two new queries after a cache of three", q[3:], k, v, True),
        ("scores so large that exp overflows", [[1e5]], [[1.0], [2.0]], [[1.0], [2.0]], False),
        ("large scores, causal", huge, [[30.0 * number for number in row] for row in k], v, True),
        ("scores so small that exp underflows", [[-1e5]], [[1.0], [2.0]], [[1.0], [2.0]], False),
        ("one query with large scores and one with small ones", [[1e5], [-1e5]], [[1.0], [2.0]], [[1.0], [2.0]], False),
        ("a hidden key with a score of 1e5", [[1.0], [1.0]], [[0.0], [1e5]], [[1.0], [2.0]], True),
        ("one new query after a cache of four", q[4:], k, v, True),
        ("three queries of one key, not causal", q[:3], k[:1], v[:1], False),
        ("three queries of all five keys, not causal", q[:3], k, v, False),
    ]
    for what, *rows, causal in questions:
        queries, keys, values = rows
        yield Case(what, [queries, keys, values, causal], expected=_by_torch(queries, keys, values, causal))
    yield Case("causal unless it is said otherwise", [q, k, v], expected=_by_torch(q, k, v, True))


def _variant(queries: Matrix, keys: Matrix, values: Matrix, causal: bool, **wrong: bool) -> list[list[float]]:
    outputs = []
    cached = 0 if wrong.get("first_aligned") else len(keys) - len(queries)
    for i, query in enumerate(queries):
        visible = cached + i + (not wrong.get("without_own")) if causal else len(keys)
        seen = len(keys) if wrong.get("late_mask") else visible
        scale = 1.0 if wrong.get("unscaled") else len(query) if wrong.get("no_root") else math.sqrt(len(query))
        scores = [sum(q * k for q, k in zip(query, key, strict=True)) / scale for key in keys[:seen]]
        largest = 0.0 if wrong.get("overflowing") else max(scores)
        exponentials = [math.exp(score - largest) for score in scores]
        total = sum(exponentials)
        pairs = list(zip(exponentials, values, strict=False))[:visible]
        outputs.append([sum(e / total * value[j] for e, value in pairs) for j in range(len(values[0]))])
    return outputs


def _mistaken(name: str) -> Any:
    def attention_loops(queries: Matrix, keys: Matrix, values: Matrix, causal: bool = True) -> list[list[float]]:
        return _variant(queries, keys, values, causal, **{name: True})

    return attention_loops


EXERCISE = Exercise(
    stub=attention_loops,
    reference="attention.scaled_dot_product:attention_loops",
    cases=cases,
    hints=(
        "One query at a time: first its list of scores, then its weights, then its output.",
        "Query i sees all keys or, if causal, the first len(keys) - len(queries) + i + 1 of them. Cut the keys there "
        "before the softmax. Subtract the largest score before math.exp.",
        "scores = [sum(q * k for q, k in zip(query, key)) / math.sqrt(len(query)) for key in keys[:visible]]; weights are "
        "math.exp(score - max(scores)) over their sum; output[j] is the sum of weight * value[j].",
    ),
    mistakes=(
        Mistake(_mistaken("unscaled"), "the scores are not divided by sqrt(head_dim)"),
        Mistake(_mistaken("no_root"), "the scores are divided by the square root of head_dim"),
        Mistake(
            _mistaken("without_own"),
            "a query sees its own position too: otherwise the first query sees no key and has no largest score",
        ),
        Mistake(
            _mistaken("first_aligned"),
            "the queries stand at the last positions: query i sees len(keys) - len(queries) + i + 1 keys",
        ),
        Mistake(
            _mistaken("late_mask"),
            "hidden keys must not take part in the softmax: the weights of the visible keys sum to 1",
        ),
        Mistake(_mistaken("overflowing"), "math.exp overflows: subtract the largest score first"),
    ),
)
