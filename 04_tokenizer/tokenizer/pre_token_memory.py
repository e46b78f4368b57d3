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
            The last one of a long pre-token is the place of its bytes in `texts`.
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


def new_memory(pre_tokens: int = 1 << 10, texts: int = 1 << 12) -> Memory:
    """An empty memory with room for some pre-tokens, and for the bytes of long ones."""
    factors = np.array([secrets.randbits(64) | 1 for _ in range(3)], np.uint64)
    rows = np.zeros((1 << (4 * pre_tokens - 1).bit_length(), 4), np.int64)
    ids = np.empty(pre_tokens + (1 << 12), np.uint32)
    return Memory(rows, np.empty(texts, np.uint8), ids, np.zeros(3, np.int64), factors)


def with_room(memory: Memory, size: int) -> Memory:
    """The same memory with room for more pre-tokens, each of at most `size` bytes."""
    rows, texts, ids = memory.rows, memory.texts, memory.ids
    if 2 * memory.used[0] >= len(rows):
        rows = np.zeros((2 * len(rows), 4), np.int64)
        _move_rows(memory.rows, rows, memory.factors)
    if memory.used[1] + size > len(texts):
        texts = np.append(texts, np.empty(len(texts) + size, np.uint8))
    if memory.used[2] + size > len(ids):
        ids = np.append(ids, np.empty(len(ids) + size, np.uint32))
    return memory._replace(rows=rows, texts=texts, ids=ids)


def pre_tokens_of(memory: Memory) -> tuple[list[bytes], NDArray[np.int64]]:
    """The pre-tokens, and their rows."""
    rows = memory.rows[memory.rows[:, 1] != 0]
    data, texts = rows[:, :2].astype("<i8").tobytes(), memory.texts.tobytes()
    short, sizes, places = (rows[:, 1] < LONG).tolist(), (rows[:, 1] >> 56).tolist(), rows[:, 3].tolist()
    lengths = (rows[:, 1] ^ LONG).tolist()
    return [
        data[16 * row : 16 * row + sizes[row]] if short[row] else texts[places[row] : places[row] + lengths[row]]
        for row in range(len(rows))
    ], rows


@compiled(allocates=False)
def _move_rows(old: Any, new: Any, factors: Any) -> None:
    for row in range(len(old)):
        if old[row, 1]:
            slot = _first_slot(new, factors, old[row, 0], old[row, 1])
            while new[slot, 1]:
                slot = slot + 1 & len(new) - 1
            for column in range(4):
                new[slot, column] = old[row, column]


@compiled(allocates=False, forceinline=True)
def _first_slot(rows: Any, factors: Any, low: int, high: int) -> int:
    mixed = np.uint64(low) * factors[0] + np.uint64(high) * factors[1]  # unsigned: modulo 2⁶⁴
    mixed = (mixed ^ mixed >> _32) * factors[2]  # the highest bits depend on all the bits below
    return np.int64(mixed >> _24) & len(rows) - 1


@compiled(allocates=False, forceinline=True)
def key_of(factors: Any, windows: Any, at: int, size: int) -> tuple[int, int]:
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
def find_row(rows: Any, factors: Any, texts: Any, low: int, high: int, windows: Any, at: int) -> int:
    """The row of the pre-token with this key at this place, or the free row where it would stand."""
    slot = _first_slot(rows, factors, low, high)
    while rows[slot, 1] and (
        rows[slot, 0] != low
        or rows[slot, 1] != high
        or (high >= LONG and not _same_bytes(texts, rows[slot, 3], windows, at, high ^ LONG))
    ):
        slot = slot + 1 & len(rows) - 1
    return slot


@compiled(allocates=False)
def _same_bytes(texts: Any, place: int, windows: Any, at: int, size: int) -> bool:
    for offset in range(size):
        if texts[place + offset] != windows[at + offset] & 0xFF:
            return False
    return True


@compiled(allocates=False, forceinline=True)
def has_room(rows: Any, texts: Any, ids: Any, used: Any, size: int) -> bool:
    """Whether one more pre-token of `size` bytes has room. Half of the rows stay free, so that few keys meet."""
    return 2 * used[0] < len(rows) and used[1] + size <= len(texts) and used[2] + size <= len(ids)


@compiled(allocates=False)
def claim_row(rows: Any, texts: Any, used: Any, slot: int, low: int, high: int, windows: Any, at: int) -> None:
    """Give a free row to a pre-token; its two numbers are then 0, and the place of its bytes if it is long."""
    rows[slot, 0], rows[slot, 1] = low, high
    used[0] += 1
    if high >= LONG:
        rows[slot, 3] = used[1]
        for offset in range(high ^ LONG):
            texts[used[1] + offset] = windows[at + offset] & 0xFF
        used[1] += high ^ LONG
