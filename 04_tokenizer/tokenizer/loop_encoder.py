"""Prepares what the compiled loops of `encoding_loop` read and write: bytes, arrays, and their memory of pre-tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from groundwork.compiled import kernels_are_compiled
from tokenizer.cutting import CODE_POINTS, KINDS, PADDING, class_table, windows_of
from tokenizer.encoding_loop import count_pieces, encode_pieces, remember_whole
from tokenizer.merging import Merger
from tokenizer.patterns import PreTokenizer, to_utf8
from tokenizer.pre_token_memory import Memory, counts_of, new_memory


def _as_arrays(
    pieces: Sequence[str], pattern: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], int, NDArray[np.uint8]]:
    """What the loops read: windows, stops, kind, classes; see `encode_pieces`."""
    data = [*map(to_utf8, pieces)]
    stops = np.array([*accumulate(map(len, data))], np.int64)
    data.append(bytes(PADDING))
    classes = class_table(128 if all(map(str.isascii, pieces)) else CODE_POINTS)
    return windows_of(b"".join(data)), stops, KINDS[pattern], classes


class LoopEncoder:
    """Encodes texts of any length that are cut by one of `KINDS`.

    Args:
        pattern: cuts the text.
        merger: merges pre-tokens.
        ids: id of each token, `(tokens,)` uint32, by the token's number.
        whole: pre-tokens that become one token without merging, and its number.
    """

    def __init__(self, pattern: str, merger: Merger, ids: NDArray[np.uint32], whole: Mapping[bytes, int]):
        self._pattern, self._merger, self._ids, self._whole = pattern, merger, ids, whole
        self._memories: list[Memory] = []  # as many as threads have encoded at the same time

    @cached_property
    def _vocabulary(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint32]]:
        return self._merger.pair_table, self._merger.first_tokens, self._ids

    def encode(self, parts: Sequence[tuple[str, int | None]]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Encode parts of text one after the other, each independently of the others.

        Args:
            parts: texts, or special tokens with their id, as `AddedTokens.split` finds them.

        Returns:
            The ids of all parts, and `(parts + 1,)` ends: 0 and then for each part the position after its last id.
        """
        text = _as_arrays([part if index is None else "" for part, index in parts], self._pattern)
        specials = np.array([-1 if index is None else index for _, index in parts], np.int64)
        ids = np.empty(len(text[0]) + len(parts), np.uint32)
        ends, progress, vocabulary = np.zeros(len(parts) + 1, np.int64), np.zeros(3, np.int64), self._vocabulary
        try:
            memory = self._memories.pop()  # so that no two threads write to the same one
        except IndexError:
            memory = self._new_memory()
        while not encode_pieces(*text, specials, *memory, *vocabulary, ids, ends, progress):
            memory = self._new_memory()
        self._memories.append(memory)
        ids.resize(ends[-1], refcheck=False)  # gives back what is not used, without a copy
        return ids, ends

    def _new_memory(self) -> Memory:
        """A memory that knows what needs no merging, and nothing else."""
        whole = [token for token in self._whole if token]
        sizes = np.array([*map(len, whole)], np.int64)
        memory = new_memory(len(whole) + (1 << 16), int(sizes.sum()) + (1 << 20))
        if whole:
            ids = self._ids[[self._whole[token] for token in whole]]
            remember_whole(windows_of(b"".join([*whole, bytes(PADDING)])), np.cumsum(sizes), ids, *memory)
        return memory


def count_by_loop(texts: Sequence[str], pre_tokenizer: PreTokenizer) -> Counter[bytes]:
    """How often each pre-token occurs in some texts, each independent of the others.

    >>> count_by_loop(["to be or not to be"], PreTokenizer())[b" be"]
    2
    """
    if pre_tokenizer.pattern not in KINDS or not kernels_are_compiled():
        return Counter(piece.encode() for text in texts for piece in pre_tokenizer.split(to_utf8(text).decode()))
    text, progress = _as_arrays(texts, pre_tokenizer.pattern), np.zeros(2, np.int64)
    counts: Counter[bytes] = Counter()
    memory = new_memory()
    while size := count_pieces(*text, *memory, progress):
        counts.update(counts_of(memory))
        memory = new_memory(texts=max(size, 1 << 20))
    counts.update(counts_of(memory))
    return counts
