"""Greedy BPE on distinct words: find the most frequent pair, merge it everywhere, repeat, quickly.

By its definition, BPE counts the whole text again for every merge. Four facts make it fast without changing
the result:

1. A text has few different pre-tokens. Each distinct one is looked at once, and counts as often as it occurs.
2. A merge changes only the places where the pair stands. An index from pairs to places finds them, and
   the counts are corrected by what each place loses (the pairs with its two neighbours) and gains.
3. A pair that a merge creates contains the new token, so only this merge creates it. Its list of places is
   complete, and in order, as soon as the merge is done. Places that a later merge destroys stay in the
   list; they are recognised when they are reached.
4. The largest count is at the top of a heap. Counts only fall, so an entry of the heap may be too high but
   never too low. It is checked when it reaches the top, and put back with its true count.

A tie goes to the pair whose bytes are lexicographically greater (first token, then second).
"""

from __future__ import annotations

import heapq
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tokenizer.merging import Pair

_OUTSIDE, _INSIDE = -1, -2  # instead of a token: between two words; within a token
_SHIFT = 32  # a pair (left, right) is one integer, left << 32 | right: smaller than a tuple
_Entry: TypeAlias = tuple[int, tuple[int, ...], tuple[int, ...], int]


def learn_merges(
    pre_token_counts: Mapping[bytes, int], num_merges: int, on_merge: Callable[[int, int], None] | None = None
) -> list[Pair]:
    """The merges of byte-level BPE, in order; fewer than asked for where no pair is left.

    >>> learn_merges({b"low": 5, b"lower": 2}, 2)  # "lo" and "ow" tie; "ow" is greater
    [(111, 119), (108, 256)]

    Args:
        pre_token_counts: how often each pre-token occurs.
        num_merges: merges wanted.
        on_merge: called with (merges done, merges wanted).
    """
    symbols = np.frombuffer(b"".join(pre_token_counts), dtype=np.uint8)
    lengths = np.fromiter(map(len, pre_token_counts), dtype=np.intp, count=len(pre_token_counts))
    counts = np.fromiter(pre_token_counts.values(), dtype=np.int64, count=len(pre_token_counts))
    return MergeLearner(symbols, lengths, counts, [(byte,) for byte in range(256)]).learn(num_merges, on_merge)


class MergeLearner:
    """The words, cut into tokens, and the counts of their pairs.

    Args:
        symbols: the first tokens of all words, one word after the other, `(symbols,)`.
        lengths: how many belong to each word, `(words,)`.
        counts: how often each word occurs.
        spelling: for each first token, the numbers that decide ties, such as its bytes.
    """

    def __init__(
        self,
        symbols: NDArray[np.integer],
        lengths: NDArray[np.intp],
        counts: NDArray[np.int64],
        spelling: Sequence[tuple[int, ...]],
    ):
        # The words lie one after the other in an array, with a gap before, between and after them:
        #   gap l o w gap l o w e r gap
        ends = np.cumsum(lengths + 1)
        size = int(ends[-1]) + 1 if len(ends) else 1
        is_gap = np.zeros(size, dtype=np.bool_)
        is_gap[0], is_gap[ends] = True, True
        begin = np.full(size, _OUTSIDE, dtype=np.int32)
        begin[~is_gap] = symbols
        weight = np.append(0, np.repeat(counts, lengths + 1))
        # The token that begins at a place, and the token that ends there. As a token's length is known,
        # this is enough to step to either neighbour.
        # Arrays of the standard library: reading one number from them is faster than from NumPy's.
        self._begin, self._end = array("i", begin.tobytes()), array("i", begin.tobytes())
        self._weight = array("q", weight.tobytes())  # of the word, at each of its places
        self._length = [1] * len(spelling)
        # heapq pops the smallest entry. So counts are negated, and each number of a spelling is subtracted from
        # the largest. A still larger number at the end makes the longer of "a" and "ab" count as the greater.
        top = max(max(numbers) for numbers in spelling)
        self._descending = [(*(top - number for number in numbers), top + 1) for numbers in spelling]
        self._count_pairs(begin, weight)

    def _count_pairs(self, begin: NDArray[np.int32], weight: NDArray[np.int64]) -> None:
        places = np.flatnonzero((begin[:-1] >= 0) & (begin[1:] >= 0))
        pairs = (begin[places].astype(np.int64) << _SHIFT) | begin[places + 1]
        order = np.argsort(pairs, kind="stable")
        places, pairs = places[order], pairs[order]
        first = np.flatnonzero(np.diff(pairs, prepend=-1))  # of each distinct pair
        distinct = pairs[first]
        totals = np.add.reduceat(weight[places], first) if len(first) else first
        self._counts: dict[int, int] = dict(zip(distinct.tolist(), totals.tolist(), strict=True))
        grouped = np.split(places, first[1:]) if len(first) else []
        self._places: dict[int, list[int] | NDArray[np.intp]] = dict(zip(distinct.tolist(), grouped, strict=True))
        self._heap = [self._entry(pair) for pair in self._counts]
        heapq.heapify(self._heap)

    def _entry(self, pair: int) -> _Entry:
        left, right = pair >> _SHIFT, pair & ((1 << _SHIFT) - 1)
        return -self._counts[pair], self._descending[left], self._descending[right], pair

    def learn(self, num_merges: int, on_merge: Callable[[int, int], None] | None = None) -> list[Pair]:
        """Merge `num_merges` times, or until no pair is left; return the pairs of token numbers."""
        heap, counts = self._heap, self._counts
        merges: list[Pair] = []
        while heap and len(merges) < num_merges:
            negative_count, _, _, pair = heap[0]
            count = counts.get(pair, 0)
            if count != -negative_count:  # it has fallen since the entry was made
                if count:
                    heapq.heapreplace(heap, self._entry(pair))
                else:
                    heapq.heappop(heap)
                continue
            heapq.heappop(heap)
            left, right = pair >> _SHIFT, pair & ((1 << _SHIFT) - 1)
            merges.append((left, right))
            self._merge(pair, left, right)
            if on_merge is not None:
                on_merge(len(merges), num_merges)
        return merges

    def _merge(self, pair: int, left: int, right: int) -> None:
        """Make a new token of the pair wherever it stands, and correct the counts."""
        begin, end, weight, length = self._begin, self._end, self._weight, self._length
        new, to_right, to_end = len(length), length[left], length[left] + length[right]
        length.append(to_end)
        self._descending.append(self._descending[left][:-1] + self._descending[right])
        # For each neighbour: how often it stands before (after) the pair, and at which places.
        count_before: dict[int, int] = defaultdict(int)
        count_after: dict[int, int] = defaultdict(int)
        places_before: dict[int, list[int]] = defaultdict(list)
        places_after: dict[int, list[int]] = defaultdict(list)

        places = self._places.pop(pair)
        for place in places.tolist() if isinstance(places, np.ndarray) else places:
            if begin[place] != left or begin[place + to_right] != right:
                continue  # destroyed by an earlier merge, or by this one: the middle of "aaa"
            after = place + to_end
            neighbour = end[place - 1]
            if neighbour >= 0:
                count_before[neighbour] += weight[place]
                places_before[neighbour].append(place - length[neighbour])
            neighbour = begin[after]
            if neighbour >= 0:
                count_after[neighbour] += weight[place]
                places_after[neighbour].append(place)
            begin[place] = end[after - 1] = new
            begin[place + to_right] = _INSIDE

        # The order matters. Where two pairs stood next to each other, the neighbour after the first pair was
        # the beginning of the second pair, and no longer exists.
        for neighbour, count in count_after.items():
            self._replace(right << _SHIFT | neighbour, new << _SHIFT | neighbour, count, places_after[neighbour])
        for neighbour, count in count_before.items():
            self._replace(neighbour << _SHIFT | left, neighbour << _SHIFT | new, count, places_before[neighbour])
        self._counts.pop(pair, None)
        for neighbour in count_after:
            if self._counts.get(created := new << _SHIFT | neighbour):
                heapq.heappush(self._heap, self._entry(created))
        for neighbour in count_before:
            heapq.heappush(self._heap, self._entry(neighbour << _SHIFT | new))

    def _replace(self, old: int, created: int, count: int, places: list[int]) -> None:
        remaining = self._counts.get(old, 0) - count
        if remaining > 0:
            self._counts[old] = remaining
        else:
            self._counts.pop(old, None)
            self._places.pop(old, None)
        self._counts[created] = count
        self._places[created] = places
