"""Exercise 4.7: WordPiece, the longest piece first."""

from __future__ import annotations

from tokenizer.wordpiece_tokenizer import CONTINUATION, UNKNOWN, WordPieceTokenizer


def _encode_word(self: WordPieceTokenizer, word: str) -> list[int]:
    """The ids of one word (Devlin et al., 2019).

    Take the longest piece of the vocabulary that begins the word, then the longest piece that continues it, and so on.
    Pieces that continue a word have `CONTINUATION` ("##") before them in the vocabulary. If a word cannot be built in
    this way, or has more than 100 characters, the whole word is `UNKNOWN` ("[UNK]").

    Args:
        self: `self._ids` maps each piece to its id; `self._special_ids[UNKNOWN]` is the id of the unknown word.
        word: not empty.
    """
    raise NotImplementedError("Exercise 4.7: the longest piece first")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator
from typing import Any

from learn.exercise import Case, Exercise, Mistake

_PIECES = [
    *("un", "##aff", "##able", "##ord", "able", "u", "##n", "a", "##b", "ab", "##c", "abcd", "##ble", "##a"),
    *("é", "##é", "##y"),
]


def cases() -> Iterator[Case]:
    """Whole; in pieces; greedy; unknown; long; too long. The pieces that could fit are in the question."""
    tokenizer = WordPieceTokenizer(_PIECES)
    for what, word in (
        ("'able', a piece by itself", "able"),
        ("'unaffordable'", "unaffordable"),
        ("'abc', which begins with 'a' and with the longer 'ab'", "abc"),
        ("'unable': '##able' and not 'able'", "unable"),
        ("'unx', whose x is in no piece", "unx"),
        ("100 times 'a'", "a" * 100),
        ("101 times 'a'", "a" * 101),
        ("100 times 'é', which is 200 bytes", "é" * 100),
        ("'aby', whose last piece only continues a word", "aby"),
        ("'y', which only continues a word", "y"),
        ("'abcabcd': 'abcd' only begins a word", "abcabcd"),
    ):
        fitting = [f"{piece} {i}" for piece, i in tokenizer._ids.items() if piece.removeprefix(CONTINUATION) in word]
        unknown = f"{UNKNOWN} {tokenizer._special_ids[UNKNOWN]}"
        yield Case(f"{what}. Pieces and ids: {', '.join(fitting)}, {unknown}", [tokenizer, word])


def _encode(self: WordPieceTokenizer, word: str, **wrong: bool) -> list[int]:
    unknown = [self._special_ids[UNKNOWN]]
    if len(word) > (99 if wrong.get("hundred") else 100) and not wrong.get("any_length"):
        return unknown
    ids: list[int] = []
    start = 0
    while start < len(word):
        prefix = CONTINUATION if start and not wrong.get("no_prefix") else ""
        ends = range(len(word), start, -1)
        for end in reversed(ends) if wrong.get("shortest") else ends:
            if prefix + word[start:end] in self._ids:
                ids.append(self._ids[prefix + word[start:end]])
                start = end
                break
        else:
            return ids + unknown if wrong.get("partly") else unknown
    return ids


def _mistaken(name: str) -> Callable[..., Any]:
    def _encode_word(self: WordPieceTokenizer, word: str) -> list[int]:
        return _encode(self, word, **{name: True})

    return _encode_word


EXERCISE = Exercise(
    stub=_encode_word,
    reference="tokenizer.wordpiece_tokenizer:WordPieceTokenizer._encode_word",
    cases=cases,
    hints=(
        "Keep the place where the next piece starts. Begin with the whole rest of the word, and make it shorter until it is in "
        "the vocabulary.",
        "The candidate is word[start:end], with '##' before it if start is above 0. Where no end works, the whole word is "
        "unknown. Python's for … else says 'no break happened'.",
        "while start < len(word): for end in range(len(word), start, -1): look up; append the id, start = end, break; else: "
        "return [unknown].",
    ),
    mistakes=(
        Mistake(_mistaken("shortest"), "the longest piece is tried first"),
        Mistake(_mistaken("no_prefix"), "within a word, pieces are written with ## before them"),
        Mistake(_mistaken("partly"), "if a word cannot be finished, the whole word is unknown"),
        Mistake(_mistaken("hundred"), "a word of exactly 100 characters is still cut into pieces"),
        Mistake(_mistaken("any_length"), "a word of more than 100 characters is unknown, as in BERT"),
    ),
)
