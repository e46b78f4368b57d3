"""Exercise 4.3: Merges, step by step."""

from __future__ import annotations

from tokenizer.merging import Merger


def steps(self: Merger, pre_token: bytes) -> list[list[int]]:
    """The tokens of a pre-token before the first merge, after each merge, and after the last.

    At each step, look at all pairs of neighbours that have a merge. Merge the pair whose merge was learned first; if it
    occurs at several places, only the leftmost. The merge learned first is the one that makes the smallest token number.

    Args:
        self: `self._merged` maps a pair of tokens to the token it becomes: {(104, 105): 256, …}.
        pre_token: bytes; each byte is a token number, so `list(pre_token)` is the first list.

    Returns:
        Lists of tokens, each one shorter than the one before.
    """
    raise NotImplementedError("Exercise 4.3: one merge after the other")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from learn.exercise import Case, Exercise, Mistake

# "hi" 256, " hi" 257, "aa" 258, "aaaa" 259, "bc" 260, "ab" 261, "abc" 262, "cd" 263
_MERGES = [(104, 105), (32, 256), (97, 97), (258, 258), (98, 99), (97, 98), (97, 260), (99, 100)]


def cases() -> Iterator[Case]:
    """No merge; one; the order of learning; the leftmost; to the end. Each question names the merges that matter."""
    for what, pre_token in (
        ("a single byte, 120", b"x"),
        ("one merge makes the next possible: 32 104 105, with 104 + 105 = 256, 32 + 256 = 257", b" hi"),
        ("98 99 100, with 98 + 99 = 260, learned before 99 + 100 = 263", b"bcd"),
        ("97 98 99, with 98 + 99 = 260, learned before 97 + 98 = 261; then 97 + 260 = 262", b"abc"),
        ("the leftmost: 97 97 97, with 97 + 97 = 258", b"aaa"),
        ("one place at each step: 97 97 97 97 97, with 97 + 97 = 258, 258 + 258 = 259", b"aaaaa"),
        ("nothing", b""),
        ("two places, the left one first: 104 105 120 104 105, with 104 + 105 = 256", b"hixhi"),
        ("the whole table at work", b" hiaaaabcdab hi"),
    ):
        yield Case(what, [Merger(_MERGES), pre_token])


def _steps(self: Merger, pre_token: bytes, **wrong: bool) -> list[list[int]]:
    found = [list(pre_token)]
    while True:
        tokens = found[-1]
        places = [(self._merged[pair], i) for i, pair in enumerate(pairwise(tokens)) if pair in self._merged]
        if not places:
            return found[1:] if wrong.get("without_start") else found
        new, at = min(places)
        if wrong.get("first_place"):
            new, at = min(places, key=lambda place: place[1])
        if wrong.get("largest"):
            new, at = max(places)
        if wrong.get("rightmost"):
            new, at = min(places, key=lambda place: (place[0], -place[1]))
        merged = [*tokens[:at], new, *tokens[at + 2 :]]
        if wrong.get("everywhere"):
            merged = []
            for token in tokens:
                if merged and self._merged.get((merged[-1], token)) == new:
                    merged[-1] = new
                else:
                    merged.append(token)
        found.append(merged)


def _mistaken(name: str) -> Callable[..., Any]:
    def steps(self: Merger, pre_token: bytes) -> list[list[int]]:
        return _steps(self, pre_token, **{name: True})

    return steps


def _same_list(self: Merger, pre_token: bytes) -> list[list[int]]:
    tokens = list(pre_token)
    found = [tokens]
    while places := [(self._merged[pair], i) for i, pair in enumerate(pairwise(tokens)) if pair in self._merged]:
        new, at = min(places)
        tokens[at : at + 2] = [new]
        found.append(tokens)
    return found


EXERCISE = Exercise(
    stub=steps,
    reference="tokenizer.merging:Merger.steps",
    cases=cases,
    hints=(
        "Write one step first: from a list of tokens to the next list, or to None if no pair has a merge.",
        "For each pair of neighbours (itertools.pairwise) look up what it becomes. The smallest number is the merge that was "
        "learned first; min over (number, place) is also the leftmost.",
        "options = [(self._merged[pair], i) for i, pair in enumerate(pairwise(tokens)) if pair in self._merged]; new, at = "
        "min(options); tokens = [*tokens[:at], new, *tokens[at + 2:]].",
    ),
    mistakes=(
        Mistake(_mistaken("without_start"), "the list begins with the bytes, before any merge"),
        Mistake(_same_list, "all entries are the same list, which each merge changes: append a copy"),
        Mistake(_mistaken("largest"), "the merge learned first makes the smallest token number, not the largest"),
        Mistake(
            _mistaken("first_place"), "the merge that was learned first is made first, wherever it stands in the text"
        ),
        Mistake(_mistaken("rightmost"), "if one merge is possible at several places, the leftmost comes first"),
        Mistake(_mistaken("everywhere"), "one step merges one place"),
    ),
)
