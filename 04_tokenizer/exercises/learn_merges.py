"""Exercise 4.2: Learn the merges of BPE."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Pair = tuple[int, int]


def learn_merges(
    pre_token_counts: Mapping[bytes, int], num_merges: int, on_merge: Callable[[int, int], None] | None = None
) -> list[Pair]:
    """The merges of byte-level BPE, in order (Gage, 1994; Sennrich et al., 2016).

    Tokens are numbers: 0 to 255 are the bytes, and merge i makes the token 256 + i. Begin with each pre-token as a list
    of bytes. Then, again and again: count all pairs of neighbours, each as often as its pre-token occurs; take the most
    frequent pair; replace it by a new token wherever it occurs, from left to right.

    If two pairs are equally frequent, the pair whose bytes are greater wins: compare the bytes of the left tokens, then
    of the right tokens, as Python compares `bytes`.

    A simple and slow solution is right here. (The package's is several hundred times as fast; its module says how.)

    Args:
        pre_token_counts: how often each pre-token occurs.
        num_merges: how many merges are wanted; there are fewer if no pair is left.
        on_merge: if it is not None, it is called with (merges done, merges wanted) after each merge.

    Returns:
        The pairs of tokens that were merged.

    >>> learn_merges({b"low": 5, b"lower": 2}, 2)  # "lo" and "ow" tie; "ow" is greater
    [(111, 119), (108, 256)]
    """
    raise NotImplementedError("Exercise 4.2: merge the most frequent pair, again and again")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """One merge; ties; weights; repetitions; the end of pairs; a paragraph; progress."""
    yield Case("the first merge of 'aab' and 'ab'", [{b"aab": 1, b"ab": 1}, 1])
    yield Case("pre-tokens count as often as they occur", [{b"ab": 5, b"cd": 2, b"cdcd": 1}, 2])
    yield Case("a tie between 'lo' and 'ow'", [{b"low": 5, b"lower": 2}, 2])
    yield Case("a tie between a byte and a token made by a merge", [{b"abz": 3, b"ab": 2, b"cd": 3}, 2])
    yield Case(
        "a tie in which the left tokens begin with the same byte", [{b"bz": 20, b"ab": 9, b"abz": 3, b"aba": 3}, 3]
    )
    yield Case("'aaaaa': the pair overlaps itself", [{b"aaaaa": 2, b"ab": 1}, 3])
    yield Case("fewer pairs than merges wanted", [{b"abc": 1}, 10])
    text = b"the cat sat on the mat and the rat sat on the cat that sat on the hat"
    yield Case("a sentence, 12 merges", [dict(Counter(text.replace(b" ", b"| ").split(b"|"))), 12])
    yield Case("no merges wanted", [{b"abab": 3}, 0])
    yield Case("no pre-tokens", [{}, 3])
    yield Case("pre-tokens of one byte, and an empty one", [{b"a": 5, b"": 2}, 3])
    yield Case("bytes above 127", [{b"\xff\xfe": 2, b"\x00\xff": 2}, 2])
    yield Case("a tie between a token and a longer one that begins with it", [{b"ab" * 2: 1, b"xa": 1, b"xab": 2}, 4])
    calls: list[tuple[int, int]] = []
    yield Case(
        "the calls of on_merge: 10 merges wanted, 2 possible",
        [{b"abc": 1}, 10, lambda done, wanted: calls.append((done, wanted))],
        observe=lambda merges, _: {"merges": merges, "calls of on_merge": calls},
    )


def _learn(
    pre_token_counts: Mapping[bytes, int], num_merges: int, on_merge: Callable[[int, int], None] | None, **wrong: bool
) -> list[Pair]:
    words = [(list(word), count) for word, count in pre_token_counts.items()]
    spelled = [bytes([byte]) for byte in range(256)]
    merges: list[Pair] = []
    while len(merges) < num_merges:
        counts: Counter[Pair] = Counter()
        for tokens, count in words:
            for pair in pairwise(tokens):
                counts[pair] += 1 if wrong.get("unweighted") else count
        if not counts:
            break

        def rank(pair: Pair, counts: Counter[Pair] = counts) -> Any:
            if wrong.get("by_number"):
                return counts[pair], pair
            if wrong.get("joined"):
                return counts[pair], spelled[pair[0]] + spelled[pair[1]]
            return counts[pair], spelled[pair[0]], spelled[pair[1]]

        best = max(counts, key=counts.__getitem__) if wrong.get("first_met") else max(counts, key=rank)
        new = 256 + len(merges)
        merges.append(best)
        if on_merge is not None and not wrong.get("not_called"):
            on_merge(len(merges) - bool(wrong.get("called_from_zero")), num_merges)
        spelled.append(spelled[best[0]] + spelled[best[1]])
        words = [(_merge(tokens, best, new, wrong.get("once", False)), count) for tokens, count in words]
    return merges


def _merge(tokens: list[int], pair: Pair, new: int, once: bool) -> list[int]:
    out: list[int] = []
    done = False
    for token in tokens:
        if out and (out[-1], token) == pair and not (once and done):
            out[-1], done = new, True
        else:
            out.append(token)
    return out


def _mistaken(name: str) -> Callable[..., Any]:
    def learn_merges(
        pre_token_counts: Mapping[bytes, int], num_merges: int, on_merge: Callable[[int, int], None] | None = None
    ) -> list[Pair]:
        return _learn(pre_token_counts, num_merges, on_merge, **{name: True})

    return learn_merges


EXERCISE = Exercise(
    stub=learn_merges,
    reference="tokenizer.merge_learner:learn_merges",
    cases=cases,
    hints=(
        "Keep a list of (list of tokens, count) and write two small functions: one that counts pairs, one that merges a pair "
        "in one list.",
        "Keep the bytes of each token in a list `spelled`, 256 single bytes at first; a merge appends the joined bytes of both "
        "parts. The best pair is max(counts, key=lambda pair: (counts[pair], spelled[pair[0]], spelled[pair[1]])).",
        "To merge from left to right, build a new list. If its last token and the next token are the pair, replace the last "
        "by the new token. Otherwise append the next token.",
    ),
    mistakes=(
        Mistake(_mistaken("unweighted"), "a pair counts as often as its pre-token occurs"),
        Mistake(_mistaken("first_met"), "in a tie, the pair whose bytes are greater wins, not the one met first"),
        Mistake(_mistaken("by_number"), "in a tie the bytes of the tokens are compared, not their numbers"),
        Mistake(
            _mistaken("joined"), "in a tie, compare the left tokens first, then the right ones; do not join the two"
        ),
        Mistake(_mistaken("once"), "the pair is replaced wherever it occurs in a pre-token, not only the first time"),
        Mistake(_mistaken("not_called"), "on_merge, if it is given, is called after each merge"),
        Mistake(_mistaken("called_from_zero"), "on_merge gets the number of merges done: 1 after the first"),
    ),
)
