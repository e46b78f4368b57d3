"""A table of the pre-tokens that are known, for compiled loops.

Text repeats its pre-tokens: a megabyte of English has 250,000, of which 15,000 are different. So nearly all of the work is
to recognise them. The table uses open addressing with linear probing (Knuth, The Art of Computer Programming, vol. 3,
section 6.4): a pre-token stands in a row computed from its bytes, or in the next free row after it.

A pre-token of at most 15 bytes is its own key: its bytes are the first fifteen of two 64-bit integers, and its length is
the sixteenth. For a longer one the key is a hash and the length, and the bytes are compared with those remembered.
"""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from groundwork.compiled import compiled

LONGEST_KEY = 15  # bytes
LONG = 1 << 62  # in the second half of a key: the first half is a hash
# By the number of bytes of a pre-token: the bits of the two halves that belong to it.
_LOW_MASK = np.array([(1 << 8 * size) - 1 for size in range(8)] + [-1] * 8, np.int64)
_HIGH_MASK = np.array([(1 << 8 * max(size - 8, 0)) - 1 for size in range(16)], np.int64)
_24, _32 = np.uint64(24), np.uint64(32)


class Memory(NamedTuple):
    """The pre-tokens that are known.

    Args:
        rows: `(rows, 4)`: the two halves of the key, 0 where a row is free; then two numbers for whoever uses the table.
            The last one of a long pre-token is at first the place of its bytes in `texts`.
        texts: the bytes of the long pre-tokens.
        ids: room for ids that do not fit into a row.
        used: how many rows, bytes and ids are in use, `(3,)`.
        factors: random odd numbers, so that nobody can write a text whose keys all fall on one row, `(3,)`.
    """

    rows: NDArray[np.int64]
    texts: NDArray[np.uint8]
    ids: NDArray[np.uint32]
    used: NDArray[np.int64]
    factors: NDArray[np.uint64]


def new_memory(pre_tokens: int = 1 << 16, texts: int = 1 << 20) -> Memory:
    """An empty memory with room for some pre-tokens, and for the bytes of long ones. Unused pages of it take no memory."""
    rows = np.zeros((1 << (2 * pre_tokens - 1).bit_length(), 4), np.int64)  # half of them stay free: few keys meet
    ids, used = np.empty(pre_tokens + texts, np.uint32), np.zeros(3, np.int64)
    factors = [secrets.randbits(64) | 1 for _ in range(3)]
    return Memory(rows, np.empty(texts, np.uint8), ids, used, np.array(factors, np.uint64))


def counts_of(memory: Memory) -> dict[bytes, int]:
    """The pre-tokens and the third number of their rows."""
    rows = memory.rows[memory.rows[:, 1] != 0]
    keys, texts = rows[:, :2].astype("<i8").tobytes(), memory.texts.tobytes()
    counts: dict[bytes, int] = {}
    for row, (_, high, count, place) in enumerate(rows.tolist()):
        start, size, data = (place, high ^ LONG, texts) if high >= LONG else (16 * row, high >> 56, keys)
        counts[data[start : start + size]] = count
    return counts


@compiled(allocates=False, forceinline=True)
def key_of(factors: Any, windows: Any, at: int, size: int) -> Any:
    """The two halves of the key of the pre-token of `size` bytes at a place. For `windows` see `cutting.windows_of`."""
    if size <= LONGEST_KEY:
        return windows[at] & _LOW_MASK[size], windows[at + 8] & _HIGH_MASK[size] | size << 56
    mixed = np.uint64(size)
    for place in range(at, at + size - 7, 8):
        mixed = (mixed ^ np.uint64(windows[place])) * factors[0]
        mixed ^= mixed >> _32
    mixed = (mixed ^ np.uint64(windows[at + size - 8])) * factors[1]  # the last eight bytes, some of them once more
    return np.int64(mixed ^ mixed >> _32), LONG | size


@compiled(allocates=False, forceinline=True)
def find_row(rows: Any, texts: Any, factors: Any, low: int, high: int, windows: Any, at: int) -> Any:
    """The row of the pre-token with this key at this place, or the free row where it would stand."""
    mixed = np.uint64(low) * factors[0] + np.uint64(high) * factors[1]  # unsigned: modulo 2⁶⁴
    mixed = (mixed ^ mixed >> _32) * factors[2]  # the highest bits depend on all the bits below
    slot = np.int64(mixed >> _24) & len(rows) - 1
    while rows[slot, 1] and (
        rows[slot, 0] != low
        or rows[slot, 1] != high
        or (high >= LONG and not _same_bytes(texts, rows[slot, 3], windows, at, high ^ LONG))
    ):
        slot = slot + 1 & len(rows) - 1
    return slot


@compiled(allocates=False)
def _same_bytes(texts: Any, place: int, windows: Any, at: int, size: int) -> bool:
    for offset in range(size):  # noqa: SIM110 - a generator is nothing that Numba compiles
        if texts[place + offset] != windows[at + offset] & 0xFF:
            return False
    return True


@compiled(allocates=False)
def claim_row(
    rows: Any, texts: Any, ids: Any, used: Any, slot: int, low: int, high: int, windows: Any, at: int, size: int
) -> bool:
    """Give a free row to a pre-token; False if the memory has no room for it."""
    if 2 * used[0] >= len(rows) or used[1] + size > len(texts) or used[2] + size > len(ids):
        return False
    rows[slot, 0], rows[slot, 1], rows[slot, 3] = low, high, used[1]
    used[0] += 1
    if high >= LONG:
        for offset in range(size):
            texts[used[1] + offset] = windows[at + offset] & 0xFF
        used[1] += size
    return True
