"""Applying merges to pre-tokens: to one, to a very long one, and to thousands at once.

All three do the same: while some pair of neighbours has a merge, apply the merge that was learned first,
leftmost occurrence first. Tokens are numbered as `BPETokenizer` numbers them: 0–255 are the bytes, then
each merge has one number. So the merge that was learned first is the one that makes the smallest number.

In some vocabularies several merges make the same token, as in Llama 3's: `ab` + `c` and `a` + `bc`. There, the number of a
merge says only when it is applied, and another list says which token it makes.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tokenizer.key_table import KeyTable

Pair = tuple[int, int]
_LONG = 200  # bytes; for longer pre-tokens, searching all of it for each merge is the slower way
_NO_MERGE = 1 << 30  # above every token number
_ROWS = 1 << 11  # pre-tokens merged side by side; the arrays made from this many fit into a cache


class Merger:
    """Applies merges.

    >>> merger = Merger([(104, 105), (32, 256)])  # "h" + "i", " " + "hi"
    >>> merger.merge(b" hihi")
    [257, 256]

    Args:
        merges: pairs of token numbers, in the order learned.
        made: the number of the token that each merge makes; None where each makes a token of its own.
        missing: bytes that the vocabulary lacks. They are left out before anything is merged, as `tokenizers` does.
    """

    def __init__(self, merges: Sequence[Pair], made: Sequence[int] | None = None, missing: bytes = b""):
        self._merged = {pair: 256 + index for index, pair in enumerate(merges)}
        self._made: Sequence[int] = range(256 + len(merges)) if made is None else [*range(256), *made]
        self._made_array = (
            np.arange(len(self._made), dtype=np.int32) if made is None else np.array(self._made, np.int32)
        )
        self._missing = missing
        self._table: KeyTable | None = None  # made when it is first needed

    def merge(self, pre_token: Sequence[int]) -> list[int]:
        """The tokens of one pre-token, which is given as bytes, or as the numbers of its first tokens."""
        if len(pre_token) > _LONG:
            return self._merge_long(pre_token)
        find, token_of, tokens = self._merged.get, self._made, self._first_tokens(pre_token)
        made = [find(pair, _NO_MERGE) for pair in pairwise(tokens)]  # by the pair that begins at each token
        while made and (best := min(made)) != _NO_MERGE:
            at, new = made.index(best), token_of[best]
            tokens[at : at + 2] = [new]
            del made[at]
            if at < len(made):
                made[at] = find((new, tokens[at + 1]), _NO_MERGE)
            if at:
                made[at - 1] = find((tokens[at - 1], new), _NO_MERGE)
        return tokens

    def _first_tokens(self, pre_token: Sequence[int]) -> list[int]:
        if self._missing and isinstance(pre_token, bytes):
            pre_token = pre_token.translate(None, self._missing)
        return list(pre_token)

    def steps(self, pre_token: bytes) -> list[list[int]]:
        """The tokens before the first merge, and after each merge."""
        steps = [self._first_tokens(pre_token)]
        while True:
            tokens = steps[-1]
            made = [self._merged.get(pair, _NO_MERGE) for pair in pairwise(tokens)]
            if not made or min(made) == _NO_MERGE:
                return steps
            at = made.index(min(made))
            steps.append([*tokens[:at], self._made[made[at]], *tokens[at + 2 :]])

    def _merge_long(self, pre_token: Sequence[int]) -> list[int]:
        """The same for a pre-token of any length, such as a megabyte without a space.

        It keeps a heap of places for each merge that is possible somewhere, and a heap of these merges. Each merge
        makes at most two new places. So the time grows with the length times its logarithm, not with the square.
        """
        find, tokens = self._merged.get, self._first_tokens(pre_token)
        count = len(tokens)
        following, preceding = list(range(1, count + 1)), list(range(-1, count - 1))
        places: dict[int, list[int]] = defaultdict(list)
        for place, pair in enumerate(pairwise(tokens)):
            if (merge := find(pair)) is not None:
                places[merge].append(place)
        due = sorted(places)  # a sorted list is a heap
        while due:
            merge = due[0]
            place = heapq.heappop(places[merge])
            if not places[merge]:
                del places[heapq.heappop(due)]
            right = following[place]
            if right >= count or tokens[place] == -1 or find((tokens[place], tokens[right])) != merge:
                continue  # one of the two has already been merged with another neighbour
            new = self._made[merge]
            tokens[place], tokens[right] = new, -1
            left, right = preceding[place], following[right]
            following[place] = right
            if right < count:
                preceding[right] = place
                self._note(places, due, (new, tokens[right]), place)
            if left >= 0:
                self._note(places, due, (tokens[left], new), left)
        return [token for token in tokens if token != -1]

    def _note(self, places: dict[int, list[int]], due: list[int], pair: Pair, place: int) -> None:
        merge = self._merged.get(pair)
        if merge is not None:
            if merge not in places:
                heapq.heappush(due, merge)
            heapq.heappush(places[merge], place)

    def merge_many(self, packed: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
        """Merge many short pre-tokens side by side.

        Args:
            packed: `(pre-tokens, width + 1)`, the bytes of each, and in the last column their number, at most
                `width`. A row with a larger number counts as empty.

        Returns:
            tokens: the tokens of all rows, one after the other.
            counts: `(pre-tokens,)`, how many tokens each row has.
        """
        sizes = packed[:, -1].astype(np.intp)
        sizes[sizes >= packed.shape[1]] = 0
        tokens = np.full(packed.shape, -1, dtype=np.int32)  # in each row its tokens, then -1
        by_size = np.argsort(sizes, kind="stable")  # rows of one size together need an array of that width only
        for rows in np.split(by_size, range(_ROWS, len(by_size), _ROWS)):
            width = int(sizes[rows[-1:]].max(initial=1))
            spelled = np.where(np.arange(width) < sizes[rows, None], packed[rows, :width].astype(np.int32), -1)
            if self._missing:
                spelled[np.isin(spelled, np.frombuffer(self._missing, dtype=np.uint8))] = -1
                spelled = np.take_along_axis(spelled, np.argsort(spelled < 0, axis=1, kind="stable"), axis=1)
            tokens[rows, :width] = self._merge_rows(spelled)
        valid = tokens >= 0
        return tokens[valid], valid.sum(axis=1)

    def _merge_rows(self, tokens: NDArray[np.int32]) -> NDArray[np.int32]:
        """Turn rows of bytes, `(rows, width)` filled up with -1, into rows of tokens filled up with -1."""
        result, width = tokens.copy(), tokens.shape[1]
        rows, column = np.arange(len(tokens)), np.arange(width)  # `rows`: rows of the result that are not done
        tokens = np.pad(tokens, ((0, 0), (0, 1)), constant_values=-1)  # so that the last has a neighbour
        made = self._find(tokens[:, :-1], tokens[:, 1:])  # (rows, width), by the pair that begins there
        while True:
            at = made.argmin(axis=1)  # the leftmost of several smallest
            best = made[np.arange(len(rows)), at]
            going = best != _NO_MERGE
            result[rows[~going]] = tokens[~going, :-1]
            rows, tokens, made, at = rows[going], tokens[going], made[going], at[going]
            if not len(rows):
                return result
            new = self._made_array[best[going]]
            here = np.arange(len(rows))
            behind = column > at[:, None]  # what moves one to the left
            np.copyto(tokens[:, :-1], tokens[:, 1:].copy(), where=behind)
            tokens[here, at] = new
            np.copyto(made[:, :-1], made[:, 1:].copy(), where=behind[:, :-1])
            made[:, -1] = _NO_MERGE
            made[here, at] = self._find(new, tokens[here, at + 1])
            inner = np.flatnonzero(at)
            made[inner, at[inner] - 1] = self._find(tokens[inner, at[inner] - 1], new[inner])

    def _find(self, left: NDArray[np.int32], right: NDArray[np.int32]) -> NDArray[np.int32]:
        """The merge of each pair, `_NO_MERGE` where it has none."""
        if self._table is None:
            pairs = np.array(list(self._merged), dtype=np.int64).reshape(-1, 2).astype(np.uint64)
            self._table = KeyTable()
            self._table.extend(pairs[:, 0].copy(), pairs[:, 1].copy())
        found = self._table.find(left.astype(np.uint64).ravel(), right.astype(np.uint64).ravel())
        return np.where(found >= 0, found + 256, _NO_MERGE).astype(np.int32).reshape(left.shape)
