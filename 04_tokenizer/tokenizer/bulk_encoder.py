"""Byte-level BPE for long texts and many texts: everything that repeats is done once, the rest in NumPy.

Text → numbers of pre-tokens (`PreTokenTable`) → ids. The ids of each distinct pre-token stand in one long
array, one pre-token after the other, and the text's ids are copied out of it by one `take`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from tokenizer.merging import Merger
from tokenizer.patterns import PreTokenizer
from tokenizer.pre_token_table import LONGEST_KEY, PreTokenTable, in_batches

# The most distinct pre-tokens to remember, about 100 bytes each. When there are more, all are forgotten.
CACHE_SIZE = 1 << 19
# New pre-tokens are merged side by side. The more there are, the less time each takes.
_BATCHES_AT_ONCE = 16
_WIDTH = 47  # bytes of the longest pre-tokens that are merged side by side
_LARGEST_ARRAY = 1 << 22  # bytes; no array of a batch is larger


class BulkEncoder:
    """Encodes ordinary text, without special tokens.

    Args:
        pre_tokenizer: cuts the text.
        merger: merges pre-tokens.
        ids: id of each token, `(tokens,)` uint32, by the token's number.
        whole: pre-tokens that become one token without merging, and its number.
    """

    def __init__(
        self,
        pre_tokenizer: PreTokenizer,
        merger: Merger,
        ids: NDArray[np.uint32],
        whole: Mapping[bytes, int],
    ):
        self._pre_tokenizer, self._merger, self._id_of_token, self._whole = pre_tokenizer, merger, ids, whole
        # glibc's malloc returns a freed array to the system, and the next array costs new pages, until a larger array
        # has been freed once. Freeing this one, which is never touched, makes encoding a tenth to a half faster.
        np.empty(_LARGEST_ARRAY, dtype=np.uint8)
        self._forget()

    def _forget(self) -> None:
        self._table = PreTokenTable(self._pre_tokenizer)
        # The ids of pre-token n stand at [_first[n], _first[n] + _count[n]).
        self._ids = np.empty(0, dtype=np.uint32)
        self._first = np.empty(0, dtype=np.intp)
        self._count = np.empty(0, dtype=np.intp)

    def encode(self, texts: Iterable[str]) -> tuple[NDArray[np.uint32], NDArray[np.intp]]:
        """Encode texts one after the other, each independently of the others.

        Returns:
            ids: `(ids of all texts,)`.
            ends: `(texts,)`, for each text the position in `ids` after its last.
        """
        all_ids, all_ends, before = [np.empty(0, dtype=np.uint32)], [np.empty(0, dtype=np.intp)], 0
        for ids, ends in self._encode_batches(texts):
            all_ids.append(ids)
            all_ends.append(ends + before)
            before += len(ids)
        return np.concatenate(all_ids), np.concatenate(all_ends)

    def _encode_batches(self, texts: Iterable[str]) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.intp]]]:
        batches = in_batches(texts)
        while several := list(islice(batches, _BATCHES_AT_ONCE)):
            numbered = [self._table.number(batch) for batch in several]
            self._learn_new_pre_tokens()
            for numbers, ends in numbered:
                counts = self._count.take(numbers)
                after = np.cumsum(counts)
                total = int(after[-1]) if len(after) else 0
                # For each id of the text, its place in `_ids`: the first place of its pre-token, then the places after.
                places = np.repeat(self._first.take(numbers) - (after - counts), counts) + np.arange(total)
                yield self._ids.take(places), np.append(0, after)[ends]
            if len(self._table) > CACHE_SIZE:
                self._forget()

    def _learn_new_pre_tokens(self) -> None:
        known = len(self._count)
        packed = self._table.packed(known)
        if not len(packed):
            return
        tokens, counts = self._merger.merge_many(packed)
        long = np.flatnonzero(packed[:, -1] > LONGEST_KEY)
        if len(long):  # their rows are empty so far
            merged = self._merge_long(self._table.long_pre_tokens((known + long).tolist()))
            places = np.repeat(np.cumsum(counts)[long], list(map(len, merged)))
            tokens = np.insert(tokens, places, np.concatenate(merged))
            counts[long] = list(map(len, merged))
        if self._whole:
            tokens, counts = self._look_up_whole(known, tokens, counts)
        first = len(self._ids) + np.cumsum(counts) - counts
        self._ids = np.append(self._ids, self._id_of_token[tokens])
        self._first, self._count = np.append(self._first, first), np.append(self._count, counts)

    def _look_up_whole(
        self, known: int, tokens: NDArray[np.int32], counts: NDArray[np.intp]
    ) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
        """Replace the tokens of each new pre-token that is itself a token; most of them have been merged to it."""
        parts = np.split(tokens, np.cumsum(counts)[:-1])
        for row, pre_token in enumerate(self._table.pre_tokens()[known:]):
            whole = self._whole.get(pre_token)
            if whole is not None:
                parts[row], counts[row] = np.array([whole], dtype=np.int32), 1
        return np.concatenate(parts), counts

    def _merge_long(self, pre_tokens: list[bytes]) -> list[Sequence[int] | NDArray[np.int32]]:
        """Merge those of up to `_WIDTH` bytes side by side, the others one by one."""
        merged: list[Sequence[int] | NDArray[np.int32]] = [() for _ in pre_tokens]
        rows = [row for row, pre_token in enumerate(pre_tokens) if len(pre_token) <= _WIDTH]
        padded = b"".join(pre_tokens[row].ljust(_WIDTH, b"\0") + bytes([len(pre_tokens[row])]) for row in rows)
        tokens, counts = self._merger.merge_many(np.frombuffer(padded, dtype=np.uint8).reshape(-1, _WIDTH + 1))
        for row, part in zip(rows, np.split(tokens, np.cumsum(counts)[:-1]), strict=False):
            merged[row] = part
        for row, pre_token in enumerate(pre_tokens):
            if len(pre_token) > _WIDTH:
                merged[row] = self._merger.merge(pre_token)
        return merged
