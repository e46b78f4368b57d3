"""Merging in machine code: the same as `merging.Merger.merge`, for a word or for a megabyte without a space.

A table gives each pair of tokens its merge. As in `encoding_loop`, it is a hash table with open addressing: a pair stands
at a place computed from its numbers, or at the next free one after it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from groundwork.compiled import compiled

_LOW_HALF = 0xFFFFFFFF
NO_MERGE = 1 << 62


@compiled()
def make_pair_table(pairs: Any, made: Any) -> Any:
    """Table of the merges: rows of (pair, merge and the token that it makes), -1 where a row is free.

    Args:
        pairs: pairs of tokens in the order learned, `(merges, 2)`.
        made: the token that each makes, `(merges,)`.
    """
    size = 16
    while size < 2 * len(pairs):
        size *= 2
    table = np.full((size, 2), -1, np.int64)
    for merge in range(len(pairs)):
        left, right = pairs[merge]
        slot = _pair_slot(table, left, right)
        table[slot, 0], table[slot, 1] = left << 32 | right, merge << 32 | made[merge]
    return table


@compiled(forceinline=True, allocates=False)
def _pair_slot(table: Any, left: int, right: int) -> Any:
    """The row of a pair, or the free row where it would stand."""
    last = len(table) - 1
    slot = (left * 0x9E3779B1 + right * 0x85EBCA6B) >> 15 & last
    while table[slot, 0] != (left << 32 | right) and table[slot, 0] != -1:
        slot = slot + 1 & last
    return slot


@compiled(forceinline=True, allocates=False)
def _find_merge(table: Any, left: int, right: int) -> Any:
    """The merge of a pair in the upper half and the token that it makes in the lower half; `NO_MERGE` if it has none."""
    slot = _pair_slot(table, left, right)
    return table[slot, 1] if table[slot, 0] != -1 else NO_MERGE


@compiled()
def merge_tokens(tokens: Any, table: Any) -> int:
    """Merge the tokens of one pre-token where they stand, and return how many are left, all at the front.

    The possible merges are in a heap, the one to make next at its top. Each merge makes at most two new ones possible. So
    the time grows with the length times its logarithm, not with the square. A merge that has become impossible stays in
    the heap, and is recognised when it comes to the top.
    """
    count = len(tokens)
    following, preceding = np.arange(1, count + 1), np.arange(-1, count - 1)
    heap = np.empty(3 * count, np.int64)  # merge in the upper half, its place in the lower half
    size = 0
    for place in range(count - 1):
        found = _find_merge(table, tokens[place], tokens[place + 1])
        if found != NO_MERGE:
            heap[size] = found >> 32 << 32 | place
            size += 1
    for place in range(size // 2 - 1, -1, -1):
        _sift_down(heap, place, size)
    while size:
        merge, place = heap[0] >> 32, heap[0] & _LOW_HALF
        size -= 1
        heap[0] = heap[size]
        _sift_down(heap, 0, size)
        right = following[place]
        if tokens[place] < 0 or right >= count:
            continue  # it is already part of the token before it, or the last one
        found = _find_merge(table, tokens[place], tokens[right])
        if found >> 32 != merge:
            continue  # one of the two has already been merged with another neighbour
        tokens[place], tokens[right] = found & _LOW_HALF, -1
        right = following[right]
        following[place] = right
        if right < count:
            preceding[right] = place
            size = _push(heap, size, _find_merge(table, tokens[place], tokens[right]), place)
        left = preceding[place]
        if left >= 0:
            size = _push(heap, size, _find_merge(table, tokens[left], tokens[place]), left)
    place, left = 0, 0
    while place < count:
        tokens[left] = tokens[place]
        left, place = left + 1, following[place]
    return left


@compiled(allocates=False)
def _sift_down(heap: Any, place: int, size: int) -> None:
    """Move an entry down, below smaller ones."""
    entry = heap[place]
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= entry:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = entry


@compiled(allocates=False)
def _push(heap: Any, size: int, found: int, place: int) -> int:
    """Add a merge that has become possible; return the new size."""
    if found == NO_MERGE:
        return size
    entry, child = found >> 32 << 32 | place, size
    while child and heap[(child - 1) // 2] > entry:
        heap[child] = heap[(child - 1) // 2]
        child = (child - 1) // 2
    heap[child] = entry
    return size + 1
