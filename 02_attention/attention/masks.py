"""Masks: which keys each query may see.

A mask here is boolean, and True where attention is allowed. Masks are combined with `&`. With a batch
they have the shape (batch, 1, queries, keys), where the 1 means every head.

    causal              sliding window 2      documents 0 0 1 1
    1 . . .             1 . . .               1 . . .
    1 1 . .             1 1 . .               1 1 . .
    1 1 1 .             . 1 1 .               . . 1 .
    1 1 1 1             . . 1 1               . . 1 1

python -m attention.masks
"""

from __future__ import annotations

import torch
from torch import Tensor


def visible_keys(query_positions: Tensor, key_positions: Tensor, window: int | None = None, sinks: int = 0) -> Tensor:
    """The rule that every mask for causal models follows, by position in the text.

    Args:
        query_positions: (..., queries) integers.
        key_positions: (..., keys) integers.
        window: how many positions a query sees, including its own; None for all before it
            (Beltagy et al., 2020: "Longformer").
        sinks: how many first positions of the text stay visible with any window. A softmax must put its
            weight somewhere, and trained models put the weight that they do not need on the first tokens.
            Without these, a window breaks a model that was trained without one (Xiao et al., 2023:
            "Efficient Streaming Language Models with Attention Sinks").

    Returns:
        Boolean (..., queries, keys).

    Raises:
        ValueError: `window` is below 1 or `sinks` below 0.
    """
    if window is not None and window < 1:
        raise ValueError(f"a window must hold at least the token itself: it must be 1 or more, got {window}")
    if sinks < 0:
        raise ValueError(f"the number of sinks must not be negative, got {sinks}")
    distance = query_positions[..., :, None] - key_positions[..., None, :]  # (..., queries, keys)
    allowed = distance >= 0
    if window is not None:
        allowed &= (distance < window) | (key_positions < sinks)[..., None, :]
    return allowed


def require_key_for_each_query(num_queries: int, num_keys: int) -> None:
    """Check that every query sees at least one key, where the queries are at the last positions of the keys.

    Raises:
        ValueError: there are more queries than keys, or fewer than 0 queries.
    """
    if not 0 <= num_queries <= num_keys:
        raise ValueError(
            f"{num_queries} queries at the last of {num_keys} keys: the first would see no key; "
            "give at least as many keys as queries"
        )


def causal_mask(
    num_queries: int,
    num_keys: int,
    window: int | None = None,
    sinks: int = 0,
    device: torch.device | None = None,
) -> Tensor:
    """Each query sees its own position and those before it.

    The last query is at the last key's position. With `num_keys > num_queries` the first keys come
    from a cache, and every query sees all of them (as far as the window reaches).

    Args:
        num_queries: how many queries, at the last positions.
        num_keys: how many keys.
        window: see `visible_keys`.
        sinks: see `visible_keys`.
        device: where to build it.

    Returns:
        Boolean (num_queries, num_keys).

    Raises:
        ValueError: see `visible_keys` and `require_key_for_each_query`.

    >>> causal_mask(2, 4).int().tolist()
    [[1, 1, 1, 0], [1, 1, 1, 1]]
    >>> causal_mask(2, 4, window=2, sinks=1).int().tolist()
    [[1, 1, 1, 0], [1, 0, 1, 1]]
    """
    require_key_for_each_query(num_queries, num_keys)
    keys = torch.arange(num_keys, device=device)
    return visible_keys(keys[num_keys - num_queries :], keys, window, sinks)


def left_padded_positions(lengths: Tensor, time: int) -> Tensor:
    """Positions in the text for sequences that are padded on the left to one length.

    Generation pads on the left so that the newest token of every sequence is in the last column.

    Args:
        lengths: (batch,) tokens of each sequence.
        time: how many columns, at least the longest length.

    Returns:
        (batch, time) integers, negative where there is padding.

    Raises:
        ValueError: a sequence is longer than `time`.

    >>> left_padded_positions(torch.tensor([3, 1]), 3).tolist()
    [[0, 1, 2], [-2, -1, 0]]
    """
    if bool((lengths > time).any()):
        raise ValueError(
            f"a sequence of {int(lengths.max())} tokens does not fit {time} columns: give as many as the longest"
        )
    columns = torch.arange(time, device=lengths.device)
    return columns[None, :] - (time - lengths)[:, None]


def left_padding_mask(positions: Tensor, num_queries: int, window: int | None = None, sinks: int = 0) -> Tensor:
    """A causal mask that also hides padding.

    Padding sees itself. A row without a visible key has no softmax, and its nan would spread through the
    next layer's values into every other row (0 · nan = nan).

    Args:
        positions: (batch, keys), negative for padding; see `left_padded_positions`.
        num_queries: how many of the last columns are queries.
        window: see `visible_keys`.
        sinks: see `visible_keys`.

    Returns:
        Boolean (batch, 1, num_queries, keys).
    """
    num_keys = positions.shape[-1]
    require_key_for_each_query(num_queries, num_keys)
    queries = positions[:, num_keys - num_queries :]
    allowed = visible_keys(queries, positions, window, sinks) & (positions >= 0)[:, None, :]
    itself = torch.eye(num_keys, dtype=torch.bool, device=positions.device)[num_keys - num_queries :]
    return (allowed | itself)[:, None]


def document_ids(token_ids: Tensor, end_of_text_id: int) -> Tensor:
    """Number the documents of a packed window; an end-of-text token begins a new one.

    Args:
        token_ids: (batch, time).
        end_of_text_id: id of the token before each document.

    Returns:
        (batch, time) integers.

    >>> document_ids(torch.tensor([[5, 6, 0, 7, 8]]), end_of_text_id=0).tolist()
    [[0, 0, 1, 1, 1]]
    """
    return (token_ids == end_of_text_id).cumsum(dim=-1)


def document_mask(documents: Tensor, window: int | None = None, sinks: int = 0) -> Tensor:
    """A causal mask in which a token sees only its own document, although a window contains several.

    Args:
        documents: (batch, time) the number of each token's document.
        window: see `visible_keys`.
        sinks: see `visible_keys`.

    Returns:
        Boolean (batch, 1, time, time).
    """
    same = documents[:, :, None] == documents[:, None, :]
    return (same & causal_mask(documents.shape[-1], documents.shape[-1], window, sinks, documents.device))[:, None]


def draw_mask(allowed: Tensor) -> str:
    """Draw a mask as text, one line for each query, with ■ where attention is allowed.

    >>> print(draw_mask(causal_mask(2, 3)))
    ■ ■ ·
    ■ ■ ■
    """
    return "\n".join(" ".join("■" if cell else "·" for cell in row) for row in allowed.tolist())


def main() -> None:
    """Draw one mask of each kind."""
    documents = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2]])
    padded = left_padded_positions(torch.tensor([5]), 8)
    drawings = {
        "causal": causal_mask(8, 8),
        "causal, 3 new queries after a cache of 5": causal_mask(3, 8),
        "sliding window of 3": causal_mask(8, 8, window=3),
        "sliding window of 3 and 1 sink": causal_mask(8, 8, window=3, sinks=1),
        "three documents in one window": document_mask(documents)[0, 0],
        "5 tokens padded on the left to 8": left_padding_mask(padded, 8)[0, 0],
    }
    for title, mask in drawings.items():
        print(f"{title}\n{draw_mask(mask)}\n")


if __name__ == "__main__":
    main()
