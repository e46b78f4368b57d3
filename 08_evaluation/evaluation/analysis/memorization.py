"""How much of a generated text is copied from the training text.

It is measured by the longest stretch that a text shares with the training text, byte for byte (after Lee et al., 2022:
"Deduplicating Training Data Makes Language Models Better"). All texts on one subject share phrases of a few words. A
stretch of hundreds of bytes was learned by heart.

All windows of 16 bytes of the training text are kept in sorted order, as one 64-bit key each. The windows of a
text are looked up among them, and each match is followed to its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundwork.user_errors import UserError

SEED_BYTES = 16  # matches shorter than this are not found
MAX_PLACES = 2000  # places that are followed for one window; a line of dashes has more, and they are all the same


@dataclass(frozen=True)
class Match:
    """The longest stretch shared with the training text.

    Args:
        text: the stretch; empty if no stretch has `SEED_BYTES` bytes.
        num_bytes: its size.
        coverage: share of the whole text's bytes that lie in some stretch of at least `long_match` bytes.
    """

    text: str
    num_bytes: int
    coverage: float


class TrainingIndex:
    """The training text, prepared for look-ups. Making it takes 8 to 16 times the size of the text in memory.

    Args:
        documents: the training documents.

    Raises:
        UserError: they have fewer bytes than one window.
    """

    def __init__(self, documents: Sequence[str]):
        data = np.frombuffer("\0".join(documents).encode("utf-8"), dtype=np.uint8)
        if len(data) < SEED_BYTES:
            raise UserError(f"the training text has {len(data)} bytes, fewer than a window of {SEED_BYTES}")
        self._data = data
        keys = _window_keys(data)
        self._order = np.argsort(keys, kind="stable").astype(np.int32 if len(data) < 2**31 else np.int64)
        self._keys = keys[self._order]

    def longest_match(self, text: str, long_match: int = 50) -> Match:
        """The longest stretch of a text that occurs in the training text.

        Args:
            text: the generated text.
            long_match: the smallest number of bytes that counts as copied, for the coverage.
        """
        query = np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
        lengths = self._match_lengths(query)
        if len(lengths) == 0 or not lengths.max():
            return Match("", 0, 0.0)
        start, size = int(lengths.argmax()), int(lengths.max())
        copied = np.zeros(len(query) + 1, dtype=np.int64)
        for place in np.flatnonzero(lengths >= long_match):
            copied[place] += 1
            copied[place + lengths[place]] -= 1
        covered = float((np.cumsum(copied[:-1]) > 0).mean())
        return Match(bytes(query[start : start + size]).decode("utf-8", errors="replace"), size, covered)

    def _match_lengths(self, query: NDArray[np.uint8]) -> NDArray[np.int64]:
        """How many bytes of the query agree with the training text from each place on, (windows,); 0 below a window."""
        if len(query) < SEED_BYTES:
            return np.zeros(0, dtype=np.int64)
        keys = _window_keys(query)
        first, last = np.searchsorted(self._keys, keys, "left"), np.searchsorted(self._keys, keys, "right")
        lengths = np.zeros(len(keys), dtype=np.int64)
        for place in np.flatnonzero(last > first):
            if place and lengths[place - 1] > SEED_BYTES:
                lengths[place] = lengths[place - 1] - 1  # at least the rest of the previous match
            candidates = self._order[first[place] : min(last[place], first[place] + MAX_PLACES)].astype(np.int64)
            lengths[place] = max(lengths[place], self._follow(query, int(place), candidates))
        return lengths

    def _follow(self, query: NDArray[np.uint8], place: int, candidates: NDArray[np.int64]) -> int:
        size = 0  # compare from the first byte on: two different windows can have the same key
        while place + size < len(query) and len(candidates):
            candidates = candidates[candidates + size < len(self._data)]
            going_on = candidates[self._data[candidates + size] == query[place + size]]
            if not len(going_on):
                break
            candidates, size = going_on, size + 1
        return size if size >= SEED_BYTES else 0


def _window_keys(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """One 64-bit number for each window of `SEED_BYTES`. Its two halves are mixed with an odd multiplier."""
    length = len(data) - SEED_BYTES + 1
    half = SEED_BYTES // 2
    halves = np.zeros(len(data) - half + 1, dtype=np.uint64)
    for offset in range(half):
        halves = (halves << np.uint64(8)) | data[offset : offset + len(halves)]
    return halves[:length] * np.uint64(0x9E3779B97F4A7C15) + halves[half : half + length]
