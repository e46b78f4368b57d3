"""A hash table whose look-ups are whole arrays: thousands of keys at once, no loop in Python.

Keys are pairs of 64-bit integers; each distinct key gets the next number, 0, 1, 2, … The method is open
addressing with linear probing (Knuth, The Art of Computer Programming, vol. 3, section 6.4), for all keys
side by side. In each round, the keys that have not found their place yet look one slot further.
"""

from __future__ import annotations

import secrets

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
_EMPTY = -1


class KeyTable:
    """Numbers distinct keys in the order in which they are added.

    >>> table = KeyTable()
    >>> low, high = np.array([7, 8, 7], dtype=np.uint64), np.zeros(3, dtype=np.uint64)
    >>> table.add(low, high)
    array([0, 1, 0], dtype=int32)
    >>> table.find(high, low)
    array([-1, -1, -1], dtype=int32)
    """

    def __init__(self) -> None:
        self._count = 0
        self._low = np.empty(1 << 12, dtype=np.uint64)  # the keys, by number
        self._high = np.empty(1 << 12, dtype=np.uint64)
        self._slots = np.full(1 << 14, _EMPTY, dtype=np.int32)
        # Random multipliers, so that nobody can write a text whose keys all fall on one slot.
        self._multipliers = [np.uint64(secrets.randbits(64) | 1) for _ in range(3)]

    def __len__(self) -> int:
        return self._count

    @property
    def low(self) -> Words:
        """First halves of the keys, by number."""
        return self._low[: self._count]

    @property
    def high(self) -> Words:
        """Second halves of the keys, by number."""
        return self._high[: self._count]

    def find(self, low: Words, high: Words) -> NDArray[np.int32]:
        """Number of each key, -1 where it is not in the table."""
        slots = self._first_slots(low, high)
        numbers = self._slots[slots]
        wrong = np.flatnonzero((self._low[numbers] != low) | (self._high[numbers] != high))
        wrong = wrong[numbers[wrong] != _EMPTY]
        last = len(self._slots) - 1
        while len(wrong):  # another key has that slot: look one further
            slots[wrong] = (slots[wrong] + 1) & last
            found = self._slots[slots[wrong]]
            numbers[wrong] = found
            differs = (self._low[found] != low[wrong]) | (self._high[found] != high[wrong])
            wrong = wrong[differs & (found != _EMPTY)]
        return numbers

    def add(self, low: Words, high: Words) -> NDArray[np.int32]:
        """Number of each key; keys that are not in the table are added."""
        numbers = self.find(low, high)
        missing = np.flatnonzero(numbers == _EMPTY)
        if len(missing):
            order = missing[np.lexsort((low[missing], high[missing]))]
            is_first = np.ones(len(order), dtype=np.bool_)  # of its key
            is_first[1:] = (low[order[1:]] != low[order[:-1]]) | (high[order[1:]] != high[order[:-1]])
            numbers[order] = self._count + np.cumsum(is_first) - 1
            firsts = order[is_first]
            self.extend(low[firsts], high[firsts])
        return numbers

    def extend(self, low: Words, high: Words) -> None:
        """Add keys that are distinct and not in the table; they are numbered in order."""
        count = self._count + len(low)
        if count > len(self._low):
            self._low = np.resize(self._low, 2 * count)
            self._high = np.resize(self._high, 2 * count)
        self._low[self._count : count], self._high[self._count : count] = low, high
        first, self._count = self._count, count
        if 4 * count > len(self._slots):  # keep three quarters empty, so that few keys meet
            self._slots = np.full(1 << (8 * count).bit_length(), _EMPTY, dtype=np.int32)
            first = 0
        self._place(np.arange(first, count, dtype=np.int32))

    def _place(self, numbers: NDArray[np.int32]) -> None:
        slots = self._first_slots(self._low[numbers], self._high[numbers])
        last = len(self._slots) - 1
        while len(numbers):
            free = self._slots[slots] == _EMPTY
            self._slots[slots[free]] = numbers[free]  # where several keys want one slot, one gets it
            homeless = self._slots[slots] != numbers
            numbers, slots = numbers[homeless], (slots[homeless] + 1) & last

    def _first_slots(self, low: Words, high: Words) -> NDArray[np.int64]:
        a, b, c = self._multipliers
        mixed = low * a + high * b  # modulo 2⁶⁴
        mixed ^= mixed >> np.uint64(32)
        mixed *= c  # the highest bits depend on all the bits below
        bits = len(self._slots).bit_length() - 1
        return (mixed >> np.uint64(64 - bits)).astype(np.int64)
