"""Exercise 8.7: Where the question ends and the answer begins."""

from __future__ import annotations

from tokenizer.interface import Tokenizer


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Ids of a context and of its continuation, to measure how likely the model finds the answer.

    BPE may merge across the border, and a word and the space before it are one token.

    - Move spaces at the end of the context to the front of the continuation, as lm-evaluation-harness does.
    - Encode both together. If they begin with the ids that the context has by itself, and more follow, cut there. An empty
      context has no ids.
    - Otherwise a token reaches across the border, and a cut would give a part of the answer away. Then encode the context
      and the continuation separately.

    Args:
        tokenizer: the model's tokenizer.
        context: a text, which may be empty.
        continuation: a text, not empty.

    Returns:
        Ids of the context, ids of the continuation.
    """
    raise NotImplementedError("Exercise 8.7: encode together, and cut where no token is in the way")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal

from learn.exercise import Case, Exercise, Mistake
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.patterns import CL100K_PATTERN


class _SpaceFirst(BPETokenizer):
    """A tokenizer that puts a space before every text, as SentencePiece does."""

    def encode(self, text: str, allowed_special: Literal["all"] | Collection[str] = ()) -> list[int]:
        """Ids of the text with a space before it."""
        return super().encode(f" {text}", allowed_special)


def cases() -> Iterator[Case]:
    """A simple border; a space; a merge across the border; several spaces; an empty context; spaces in the middle; digits; another tokenizer."""
    # "ab", " c", " ca", "abc"
    tokenizer = BPETokenizer([(97, 98), (32, 99), (257, 97), (256, 99)])
    yield Case("'ab' and ' ca'", [tokenizer, "ab", " ca"])
    yield Case("'ab ' and 'ca': the space belongs to the answer", [tokenizer, "ab ", "ca"])
    yield Case("'ab' and 'c', which merge into one token", [tokenizer, "ab", "cc"])
    yield Case("'x  ' and 'ca': two spaces", [tokenizer, "x  ", "ca"])
    yield Case("an empty context", [tokenizer, "", "ca"])
    yield Case("'a b' and ' ca ': spaces elsewhere stay where they are", [tokenizer, "a b", " ca "])
    yield Case("' ab' and 'c': a space at the beginning of the context stays there", [tokenizer, " ab", "ca"])
    digits = BPETokenizer([(53, 54)], pattern=CL100K_PATTERN)  # "56", in groups of up to three digits
    yield Case("'12' and '3456', which is '123' and '456' together, but '345' and '6' alone", [digits, "12", "3456"])
    yield Case("a tokenizer that puts a space before every text", [_SpaceFirst([]), "ab", "c"])
    yield Case("the same, and an empty context", [_SpaceFirst([]), "", "c"])
    yield Case("a context of two spaces", [tokenizer, "  ", "ca"])


def _pair(tokenizer: Tokenizer, context: str, continuation: str, **wrong: bool) -> tuple[list[int], list[int]]:
    if wrong.get("answer_stripped"):
        continuation = continuation.strip()
    if not wrong.get("spaces_stay"):
        stripped = context.strip() if wrong.get("both_ends") else context.rstrip()
        spaces = context[len(context.rstrip()) :]
        spaces = spaces[:1] if wrong.get("one_space") else "" if wrong.get("spaces_lost") else spaces
        context, continuation = stripped, spaces + continuation
    whole = tokenizer.encode(context + continuation)
    before = tokenizer.encode(context) if context or wrong.get("nothing_encoded") else []
    if wrong.get("always_apart"):
        return before, tokenizer.encode(continuation)
    split = len(before)
    if wrong.get("from_the_end"):
        split = len(whole) - len(tokenizer.encode(continuation))
    elif not wrong.get("always_cut") and (whole[:split] != before or len(whole) == split):
        return before, tokenizer.encode(continuation)
    return whole[:split], whole[split:]


def _joined_by_a_space(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    context, continuation = context.rstrip(), continuation.strip()
    whole = tokenizer.encode(f"{context} {continuation}")
    split = len(tokenizer.encode(context))
    return whole[:split], whole[split:]


def _mistaken(name: str) -> Callable[..., Any]:
    def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
        return _pair(tokenizer, context, continuation, **{name: True})

    return encode_pair


EXERCISE = Exercise(
    stub=encode_pair,
    reference="evaluation.tasks.answer_scoring:encode_pair",
    cases=cases,
    in_place=True,
    hints=(
        "First decide the two texts, then encode them as one.",
        "stripped = context.rstrip(). The spaces are context[len(stripped):] and go in front of the continuation.",
        "whole = tokenizer.encode(stripped + continuation); before = tokenizer.encode(stripped). If whole[:len(before)] == "
        "before and more follows, return before, whole[len(before):]; otherwise before, tokenizer.encode(continuation).",
    ),
    mistakes=(
        Mistake(
            _mistaken("spaces_stay"),
            "spaces at the end of the context belong to the answer: models learn ' word' as one token",
        ),
        Mistake(_mistaken("spaces_lost"), "the spaces are moved, not dropped"),
        Mistake(
            _mistaken("always_cut"),
            "a token reaches across the border: the cut gives a part of the answer away; then encode the two separately",
        ),
        Mistake(
            _mistaken("always_apart"),
            "the continuation alone may have other ids than after the context: cut the ids of both together",
        ),
        Mistake(
            _mistaken("nothing_encoded"), "an empty context has no ids, whatever the tokenizer makes of an empty text"
        ),
        Mistake(_mistaken("from_the_end"), "the cut is counted from the front, by the context's own ids"),
        Mistake(_mistaken("one_space"), "all the spaces at the end are moved"),
        Mistake(_mistaken("both_ends"), "only spaces at the *end* of the context are moved: rstrip, not strip"),
        Mistake(
            _mistaken("answer_stripped"), "the continuation keeps its own spaces: ' word' is one token with its space"
        ),
        Mistake(_joined_by_a_space, "the spaces are moved as they are; no space is added"),
    ),
)
