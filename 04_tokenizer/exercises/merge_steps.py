"""Exercise 4.3: Merges, step by step."""

from __future__ import annotations

from tokenizer.merging import Merger


def steps(self: Merger, pre_token: bytes) -> list[list[int]]:
    """The tokens of a pre-token before the first merge, after each merge, and after the last.

    At each step, of all pairs of neighbours that have a merge, the one whose merge was learned first is merged; of
    several such places, only the leftmost. The merge learned first is the one that makes the smallest token number.

    Args:
        self: `self._merged` maps a pair of tokens to the token it becomes: {(104, 105): 256, …}.
        pre_token: bytes; a byte is a token number, so `list(pre_token)` is the beginning.

    Returns:
        Lists of tokens, each one shorter than the one before.
    """
    raise NotImplementedError("Exercise 4.3: one merge after the other")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from learn.exercise import Case, Exercise, Mistake

# "hi", " hi", "aa", "aaaa", "ab", "bc", "abc"
_MERGES = [(104, 105), (32, 256), (97, 97), (258, 258), (98, 99), (97, 98), (97, 260)]


def cases() -> Iterator[Case]:
    """No merge; one; the order learned; the leftmost; to the end."""
    yield Case("a single byte", [Merger(_MERGES), b"x"])
    yield Case("' hi': one merge makes the next possible", [Merger(_MERGES), b" hi"])
    yield Case("'abc': 'bc' was learned before 'ab'", [Merger(_MERGES), b"abc"])
    yield Case("'aaa': the leftmost", [Merger(_MERGES), b"aaa"])
    yield Case("'aaaaa': one place a step", [Merger(_MERGES), b"aaaaa"])
    yield Case("nothing", [Merger(_MERGES), b""])


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


EXERCISE = Exercise(
    stub=steps,
    reference="tokenizer.merging:Merger.steps",
    cases=cases,
    in_place=True,
    hints=(
        "Write one step first: from a list of tokens to the next list, or to nothing where no pair has a merge.",
        "For each pair of neighbours (itertools.pairwise) look up what it becomes. The smallest number is the merge that was "
        "learned first; min over (number, place) is also the leftmost.",
        "options = [(self._merged[pair], i) for i, pair in enumerate(pairwise(tokens)) if pair in self._merged]; new, at = "
        "min(options); tokens = [*tokens[:at], new, *tokens[at + 2:]].",
    ),
    mistakes=(
        Mistake(_mistaken("without_start"), "the list begins with the bytes, before any merge"),
        Mistake(
            _mistaken("first_place"), "the merge that was learned first goes first, wherever it stands in the text"
        ),
        Mistake(_mistaken("rightmost"), "of several places of one merge, the leftmost goes first"),
        Mistake(_mistaken("everywhere"), "one step merges one place"),
    ),
)
