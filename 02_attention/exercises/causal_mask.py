"""Exercise 2.3: A causal mask that knows about the cache.

While a model writes, the keys of earlier tokens come from a cache, and only the newest tokens have queries. The most
common bug in a first key-value cache is a mask that does not know this.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attention.masks import visible_keys


def causal_mask(
    num_queries: int,
    num_keys: int,
    window: int | None = None,
    sinks: int = 0,
    device: torch.device | None = None,
) -> Tensor:
    """Each query sees its own position and those before it.

    The last query is at the last key's position.

    Args:
        num_queries: how many queries there are; they stand at the last positions.
        num_keys: how many keys there are; they stand at positions 0 to num_keys - 1.
        window: see `visible_keys`, which you may use (exercise 2.2 is to write it).
        sinks: see `visible_keys`.
        device: where to build the mask.

    Returns:
        Boolean (num_queries, num_keys), True where the query sees the key.

    >>> causal_mask(2, 4).int().tolist()
    [[1, 1, 1, 0], [1, 1, 1, 1]]
    """
    raise NotImplementedError("Exercise 2.3: a mask for the newest queries")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def _device(result: Any, arguments: Any) -> str:
    return f"built on device {result.device}"


def cases() -> Iterator[Case]:
    """No cache; a cache; one new token; a window; a device."""
    yield Case("4 queries, 4 keys", [4, 4])
    yield Case("2 new queries after a cache of 2", [2, 4])
    yield Case("one new query sees everything", [1, 5])
    yield Case("3 new queries after a cache of 5, window 3", [3, 8], {"window": 3})
    yield Case("the same with 1 sink", [3, 8, 3, 1])
    yield Case("one new query after a cache of 7, window 2 and 3 sinks", [1, 8, 2, 3])
    yield Case("a window of 1", [3, 3, 1])
    yield Case("sinks without a window", [2, 4], {"sinks": 2})
    yield Case("a window that is longer than the text", [2, 4, 9])
    meta = torch.device("meta")
    yield Case("on the device 'meta', which has only shapes", [2, 4, None, 0, meta], observe=_device)
    yield Case("the same with a window of 2 and 1 sink", [2, 4, 2, 1, meta], observe=_device)


def _first_aligned(
    num_queries: int, num_keys: int, window: int | None = None, sinks: int = 0, device: torch.device | None = None
) -> Tensor:
    return visible_keys(torch.arange(num_queries), torch.arange(num_keys), window, sinks)


def _hidden(
    num_queries: int, num_keys: int, window: int | None = None, sinks: int = 0, device: torch.device | None = None
) -> Tensor:
    keys = torch.arange(num_keys)
    return ~visible_keys(keys[num_keys - num_queries :], keys, window, sinks)


def _no_window(
    num_queries: int, num_keys: int, window: int | None = None, sinks: int = 0, device: torch.device | None = None
) -> Tensor:
    keys = torch.arange(num_keys)
    return visible_keys(keys[num_keys - num_queries :], keys)


def _no_sinks(
    num_queries: int, num_keys: int, window: int | None = None, sinks: int = 0, device: torch.device | None = None
) -> Tensor:
    keys = torch.arange(num_keys)
    return visible_keys(keys[num_keys - num_queries :], keys, window)


def _no_device(
    num_queries: int, num_keys: int, window: int | None = None, sinks: int = 0, device: torch.device | None = None
) -> Tensor:
    keys = torch.arange(num_keys)
    return visible_keys(keys[num_keys - num_queries :], keys, window, sinks)


EXERCISE = Exercise(
    stub=causal_mask,
    reference="attention.masks:causal_mask",
    cases=cases,
    hints=(
        "Which positions do the queries have, when the last of them is at position num_keys - 1?",
        "They stand at the last num_queries positions of the keys.",
        "keys = torch.arange(num_keys, device=device); visible_keys(keys[num_keys - num_queries:], keys, window, sinks).",
    ),
    mistakes=(
        Mistake(
            _first_aligned,
            "the first query is aligned with the first key; with a cache it is the last query that stands at the last key",
        ),
        Mistake(_hidden, "True means that the query sees the key; this is the opposite"),
        Mistake(_no_window, "window and sinks are not passed on"),
        Mistake(_no_sinks, "sinks are not passed on"),
        Mistake(_no_device, "the mask is not built on `device`: torch.arange(…, device=device)"),
    ),
)
