"""What stands around the compiled loops of `encoding_loop`: bytes and arrays for them, and memory that grows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from groundwork.compiled import kernels_are_compiled
from tokenizer.cutting import CODE_POINTS, KINDS, PADDING, WHOLE, class_table, windows_of
from tokenizer.encoding_loop import Vocabulary, count_pieces, encode_pieces, remember_whole
from tokenizer.merging import Merger
from tokenizer.patterns import PreTokenizer, to_utf8
from tokenizer.pre_token_memory import Memory, new_memory, pre_tokens_of, with_room

CACHE_SIZE = 1 << 19  # the most distinct pre-tokens to remember, about 100 bytes each; with more, all are forgotten
_LONGEST_REMEMBERED = 256  # bytes


class _Text(NamedTuple):
    """Pieces of text as the loops read them; see `encode_pieces`."""

    windows: NDArray[np.int64]
    stops: NDArray[np.int64]
    kind: int
    classes: NDArray[np.uint8]


def _as_text(pieces: Sequence[str], kind: int) -> _Text:
    data = [*map(to_utf8, pieces)]
    stops = np.array([*accumulate(map(len, data))], np.int64)
    data.append(bytes(PADDING))
    classes = class_table(128 if all(map(str.isascii, pieces)) else CODE_POINTS)
    return _Text(windows_of(b"".join(data)), stops, kind, classes)


def _cut_by_expression(pieces: Iterable[str], pre_tokenizer: PreTokenizer) -> list[list[str]]:
    """For a pattern that the loops do not know: the pre-tokens of each piece, one that is empty for an empty piece."""
    return [pre_tokenizer.split(to_utf8(piece).decode()) or [""] for piece in pieces]


class LoopEncoder:
    """Encodes texts of any length.

    Args:
        pre_tokenizer: cuts the text.
        merger: merges pre-tokens.
        ids: id of each token, `(tokens,)` uint32, by the token's number.
        whole: pre-tokens that become one token without merging, and its number.
    """

    def __init__(
        self, pre_tokenizer: PreTokenizer, merger: Merger, ids: NDArray[np.uint32], whole: Mapping[bytes, int]
    ):
        self._pre_tokenizer, self._merger, self._ids, self._whole = pre_tokenizer, merger, ids, whole
        self._memories: list[Memory] = []  # as many as threads have encoded at the same time

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        longest = max(map(len, self._whole), default=0)
        merger = self._merger
        return Vocabulary(merger.pair_table, merger.first_tokens, self._ids, max(longest, _LONGEST_REMEMBERED))

    def encode(self, pieces: Sequence[str], specials: Sequence[int]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Encode pieces of text one after the other, each independently of the others.

        Args:
            pieces: texts.
            specials: an id that stands after each piece, -1 for none.

        Returns:
            ids: `(ids of all pieces,)`.
            ends: `(pieces + 1,)`, 0 and then for each piece the position in `ids` after its last.
        """
        kind = KINDS.get(self._pre_tokenizer.pattern)
        if kind is not None:
            return self._encode(_as_text(pieces, kind), np.array(specials, np.int64))
        cut = _cut_by_expression(pieces, self._pre_tokenizer)
        before_end = [0, *accumulate(map(len, cut))]
        after = np.full(before_end[-1], -1, np.int64)
        after[np.array(before_end[1:], np.intp) - 1] = specials
        ids, ends = self._encode(_as_text(list(chain(*cut)), WHOLE), after)
        return ids, ends[before_end]

    def _encode(self, text: _Text, specials: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        ids = np.empty(len(text.windows) + len(specials), np.uint32)
        ends, progress, vocabulary = np.zeros(len(specials) + 1, np.int64), np.zeros(3, np.int64), self._vocabulary
        try:
            memory = self._memories.pop()  # so that no two threads write to the same one
        except IndexError:
            memory = self._new_memory()
        while not encode_pieces(*text, specials, *memory, *vocabulary, ids, ends, progress):
            is_full = memory.used[0] >= CACHE_SIZE
            memory = self._new_memory() if is_full else with_room(memory, vocabulary.longest)
        self._memories.append(memory)
        ids.resize(ends[-1], refcheck=False)  # gives back what is not used, without a copy
        return ids, ends

    def _new_memory(self) -> Memory:
        """A memory that knows what needs no merging, and nothing else."""
        whole = [token for token in self._whole if token]
        memory = new_memory(max(len(whole), 1 << 10), sum(map(len, whole)) + (1 << 12))
        if whole:
            windows = windows_of(b"".join(whole) + bytes(PADDING))
            ids = self._ids[[self._whole[token] for token in whole]]
            remember_whole(windows, np.cumsum(list(map(len, whole))), ids, *memory)
        return memory


def count_by_loop(texts: Sequence[str], pre_tokenizer: PreTokenizer) -> dict[bytes, int]:
    """How often each pre-token occurs in some texts, each independent of the others.

    >>> count_by_loop(["to be or not to be"], PreTokenizer())[b" be"]
    2
    """
    if not kernels_are_compiled():
        return Counter(piece.encode() for text in texts for piece in pre_tokenizer.split(to_utf8(text).decode()))
    kind = KINDS.get(pre_tokenizer.pattern)
    if kind is None:
        texts, kind = list(chain(*_cut_by_expression(texts, pre_tokenizer))), WHOLE
    text, memory, progress = _as_text(texts, kind), new_memory(), np.zeros(3, np.int64)
    while not count_pieces(*text, *memory, progress):
        memory = with_room(memory, int(progress[2]))
    pre_tokens, rows = pre_tokens_of(memory)
    return dict(zip(pre_tokens, rows[:, 2].tolist(), strict=True))
