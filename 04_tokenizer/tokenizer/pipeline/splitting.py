"""Cutting a text where a pattern matches, and what becomes of the matches: `Split` of `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tokenizer.interface import TokenizerError

Span = tuple[int, int]
BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")


def matches_and_gaps(text: str, pattern: Any, invert: bool = False) -> Iterator[tuple[Span, bool]]:
    """The whole text in spans, and for each whether the pattern matches it (or, inverted, does not)."""
    done = 0
    for start, end in _matches(text, pattern):
        if done < start:
            yield (done, start), invert
        yield (start, end), not invert
        done = end
    if done < len(text):
        yield (done, len(text)), invert


def _matches(text: str, pattern: Any) -> Iterator[Span]:
    # As Oniguruma's: after a match, one without characters does not count, nor what else the pattern matches there.
    place, done = 0, -1
    while match := pattern.search(text, place):
        start, place = match.span()
        if start == place == done:
            place += 1
            if place > len(text):
                return
            continue
        done = place
        yield start, place


def split(text: str, pattern: Any, behavior: str, invert: bool = False) -> list[str]:
    """Cut a text.

    >>> import regex
    >>> [split("the-final--countdown", regex.compile("-"), behavior) for behavior in BEHAVIORS[:2]]
    [['the', '', 'final', '', '', 'countdown'], ['the', '-', 'final', '-', '-', 'countdown']]

    Args:
        text: not empty.
        pattern: compiled; it matches at least one character.
        behavior: what becomes of a match: `Removed`, `Isolated` (a piece of its own), `MergedWithPrevious` or
            `MergedWithNext` (with the piece before or after it), `Contiguous` (matches in a row are one piece).
        invert: what is not matched counts as a match.

    Returns:
        The pieces. Where something was removed, an empty piece may stand, so that the first piece is still the one that
        begins the text.
    """
    spans = matches_and_gaps(text, pattern, invert)
    if behavior == "Isolated":
        return [text[start:end] for (start, end), _ in spans]
    if behavior == "Removed":
        return ["" if is_match else text[start:end] for (start, end), is_match in spans]
    if behavior == "MergedWithNext":
        return [text[start:end] for start, end in _with_next(spans)]
    return [text[start:end] for start, end in _joined(spans, behavior)]


def _joined(spans: Iterable[tuple[Span, bool]], behavior: str) -> list[Span]:
    pieces: list[Span] = []
    before = False
    for (start, end), is_match in spans:
        join = is_match == before if behavior == "Contiguous" else is_match and not before
        if join and pieces:
            pieces[-1] = (pieces[-1][0], end)
        else:
            pieces.append((start, end))
        before = is_match
    return pieces


def _with_next(spans: Iterable[tuple[Span, bool]]) -> list[Span]:
    pieces: list[Span] = []
    after = False
    for (start, end), is_match in reversed(list(spans)):
        if is_match and not after and pieces:
            pieces[-1] = (start, pieces[-1][1])
        else:
            pieces.append((start, end))
        after = is_match
    return pieces[::-1]


def check_behavior(behavior: str) -> str:
    """The behavior, as `tokenizer.json` writes it.

    Raises:
        TokenizerError: there is none of that name.
    """
    if behavior not in BEHAVIORS:
        raise TokenizerError(f"its Split has the behavior {behavior!r}; there are {', '.join(BEHAVIORS)}")
    return behavior
