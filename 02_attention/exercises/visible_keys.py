"""Exercise 2.2: Who sees whom: causality, window, sinks."""

from __future__ import annotations

import torch
from torch import Tensor


def visible_keys(query_positions: Tensor, key_positions: Tensor, window: int | None = None, sinks: int = 0) -> Tensor:
    """The rule that every mask for causal models follows, by position in the text.

    A query sees a key if the key is not later than the query, and

    - there is no window, or
    - the key is among the last `window` positions up to the query's own (a window of 1 is the query itself), or
    - the key's position is below `sinks`: the first tokens of the text stay visible with any window.

    Args:
        query_positions: (..., queries) integers.
        key_positions: (..., keys) integers.
        window: how many positions a query sees, its own included; None for all before it.
        sinks: how many first positions stay visible.

    Returns:
        Boolean (..., queries, keys), True where the query sees the key.

    >>> visible_keys(torch.arange(3), torch.arange(3)).int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    raise NotImplementedError("Exercise 2.2: compare positions")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """Causal; a window; sinks; positions that do not begin at 0; a batch."""
    yield Case("causal, 4 positions", [torch.arange(4), torch.arange(4)])
    yield Case("a window of 2", [torch.arange(5), torch.arange(5), 2])
    yield Case("a window of 1: each sees itself", [torch.arange(3), torch.arange(3), 1])
    yield Case("a window of 2 and 1 sink", [torch.arange(6), torch.arange(6), 2, 1])
    yield Case(
        "more sinks than the first queries have keys: causality still holds", [torch.arange(5), torch.arange(5), 1, 3]
    )
    yield Case("queries at positions 7 and 8, keys at 5 to 8, window 3", [torch.tensor([7, 8]), torch.arange(5, 9), 3])
    positions = torch.tensor([[0, 1, 2], [4, 5, 6]])
    yield Case("a batch of two, each with its own positions", [positions, positions, 2, 1])
    yield Case("keys at 5 to 8, window 1, and the sinks are the positions below 7", [
        torch.tensor([7, 8]), torch.arange(5, 9), 1, 7,
    ])  # fmt: skip
    yield Case("sinks without a window", [torch.arange(4), torch.arange(4), None, 2])
    yield Case("a window that is longer than the text", [torch.arange(3), torch.arange(3), 5, 1])
    yield Case("padding at positions -2 and -1", [torch.arange(-2, 3), torch.arange(-2, 3), 2, 1])
    yield Case("a batch of two queries, with keys for both", [torch.tensor([[3], [1]]), torch.arange(5), 2, 1])
    yield Case("positions that are not in order", [torch.tensor([4, 0, 2]), torch.tensor([3, 0, 4, 1]), 2])
    yield Case("positions in int32", [torch.arange(4, dtype=torch.int32), torch.arange(4, dtype=torch.int32), 2, 1])


def _rule(q: Tensor, k: Tensor, window: int | None, sinks: int, reach: int = 0, causal_sinks: bool = True) -> Tensor:
    distance = q[..., :, None] - k[..., None, :]
    allowed = distance >= 0
    if window is not None:
        near, first = distance < window + reach, (k < sinks)[..., None, :]
        allowed = allowed & (near | first) if causal_sinks else (allowed & near) | first
    return allowed


def _transposed(query_positions: Tensor, key_positions: Tensor, window: int | None = None, sinks: int = 0) -> Tensor:
    return _rule(query_positions, key_positions, window, sinks).transpose(-2, -1)


def _one_too_far(query_positions: Tensor, key_positions: Tensor, window: int | None = None, sinks: int = 0) -> Tensor:
    return _rule(query_positions, key_positions, window, sinks, reach=1)


def _no_sinks(query_positions: Tensor, key_positions: Tensor, window: int | None = None, sinks: int = 0) -> Tensor:
    return _rule(query_positions, key_positions, window, 0)


def _sinks_from_the_future(
    query_positions: Tensor, key_positions: Tensor, window: int | None = None, sinks: int = 0
) -> Tensor:
    return _rule(query_positions, key_positions, window, sinks, causal_sinks=False)


def _by_column(query_positions: Tensor, key_positions: Tensor, window: int | None = None, sinks: int = 0) -> Tensor:
    q, k = torch.arange(query_positions.shape[-1]), torch.arange(key_positions.shape[-1])
    return _rule(q, k, window, sinks)


def _without_batch(query_positions: Tensor, key_positions: Tensor, window: int | None = None, sinks: int = 0) -> Tensor:
    distance = query_positions[:, None] - key_positions[None, :]
    allowed = distance >= 0
    return allowed if window is None else allowed & ((distance < window) | (key_positions < sinks)[None, :])


EXERCISE = Exercise(
    stub=visible_keys,
    reference="attention.masks:visible_keys",
    cases=cases,
    hints=(
        "All conditions are about one table: the distance of each query (row) from each key (column).",
        "query_positions[..., :, None] - key_positions[..., None, :] is that table. Causal: distance >= 0. In the window: "
        "distance < window. Combine boolean tensors with & and |.",
        "allowed = distance >= 0; with a window: allowed &= (distance < window) | (key_positions < sinks)[..., None, :].",
    ),
    mistakes=(
        Mistake(_transposed, "queries are the rows and keys the columns; this is the other way round"),
        Mistake(_one_too_far, "the window counts the query's own position: distance < window, not <="),
        Mistake(_no_sinks, "the first `sinks` positions stay visible outside the window"),
        Mistake(_sinks_from_the_future, "sinks are exempt from the window, not from causality"),
        Mistake(_without_batch, "there may be batch axes in front: [..., :, None] and [..., None, :]"),
        Mistake(
            _by_column, "positions are given and can begin at any number: use them, not the row and column numbers"
        ),
    ),
)
