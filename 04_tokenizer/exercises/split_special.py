"""Exercise 4.6: Special tokens that nobody can forge."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Literal

import regex

from tokenizer.interface import allowed_names


def split_special(
    text: str, special_ids: Mapping[str, int], allowed: Literal["all"] | Collection[str]
) -> Iterator[tuple[str, int | None]]:
    """Cut text at the special tokens that are allowed.

    A user may type "<|endoftext|>". Unless the caller allows it, that is ordinary text of thirteen characters, and no
    document ends there.

    If several special tokens begin with the same characters, the longest that fits counts.

    Args:
        text: any text.
        special_ids: text and id of each special token.
        allowed: the tokens to recognise: some of their texts, or "all". `allowed_names(special_ids, allowed)` turns
            either into a set, and refuses unknown names.

    Yields:
        (ordinary text, None) or (special token, its id), in order. If nothing is allowed, yield the whole text as one
        piece, even if it is empty. Otherwise never yield empty ordinary text.
    """
    raise NotImplementedError("Exercise 4.6: cut at the special tokens that are allowed")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable
from typing import Any

from learn.exercise import Case, Exercise, Mistake

_SPECIALS = {"<|end|>": 256, "<|user|>": 257, "<|end|><|user|>": 258, "a.b": 259}
# Twenty tokens. Each begins with the one before it, so an order by chance is wrong for some of them.
_NESTED = {"+" * length: 300 + length for length in range(20, 0, -1)}


def cases() -> Iterator[Case]:
    """None allowed; some; all; equal beginnings; characters that have a meaning in regular expressions."""
    yield Case("nothing is allowed", ["one<|end|>two", _SPECIALS, ()])
    yield Case("one is allowed, another is not", ["one<|end|>two<|user|>", _SPECIALS, ["<|end|>"]])
    yield Case("two next to each other, at the beginning", ["<|end|><|end|>one", _SPECIALS, ["<|end|>"]])
    yield Case("all are allowed, and one is the beginning of another", ["x<|end|><|user|>y<|end|>", _SPECIALS, "all"])
    yield Case("'a.b' is not 'axb'", ["axb a.b", _SPECIALS, ["a.b"]])
    yield Case("no special token in the text", ["plain", _SPECIALS, "all"])
    yield Case("an empty text, nothing allowed", ["", _SPECIALS, ()])
    yield Case("an empty text, all allowed", ["", _SPECIALS, "all"])
    yield Case("twenty special tokens, each the beginning of the next", ["a++b+++++c" + "+" * 23, _NESTED, "all"])
    yield Case("the same, in a set, without the longest", ["+" * 20, _NESTED, set(_NESTED) - {"+" * 20}])
    yield Case("special tokens around a text with line breaks", ["<|end|>a\nb\n<|end|>", _SPECIALS, {"<|end|>"}])
    yield Case("capital letters are other letters", ["<|END|>", _SPECIALS, "all"])
    yield Case("a special token that starts again in its middle", ["<|end<|end|>", _SPECIALS, ["<|end|>"]])
    yield Case("an unknown name among the allowed", ["one", _SPECIALS, ["<|other|>"]], raises=ValueError)


def _split(text: str, special_ids: Mapping[str, int], allowed: Any, **wrong: bool) -> Iterator[tuple[str, int | None]]:
    names = set(special_ids) if wrong.get("all_allowed") else allowed_names(special_ids, allowed)
    if not names:
        yield text, None
        return
    ordered = sorted(names, key=len, reverse=not wrong.get("shortest_first"))
    escaped = ordered if wrong.get("not_escaped") else [regex.escape(name) for name in ordered]
    if wrong.get("not_escaped"):
        escaped = [name.replace("|", "\\|") for name in ordered]
    for index, piece in enumerate(regex.split(f"({'|'.join(escaped)})", text)):
        if piece or wrong.get("empty_pieces"):
            yield piece, special_ids.get(piece, -1) if index % 2 else None


def _mistaken(name: str) -> Callable[..., Any]:
    def split_special(
        text: str, special_ids: Mapping[str, int], allowed: Literal["all"] | Collection[str]
    ) -> Iterator[tuple[str, int | None]]:
        return _split(text, special_ids, allowed, **{name: True})

    return split_special


def _bare(
    text: str, special_ids: Mapping[str, int], allowed: Literal["all"] | Collection[str]
) -> Iterator[tuple[str, int | None]]:
    names = sorted(allowed_names(special_ids, allowed), key=len, reverse=True)
    if not names:
        yield text, None
        return
    for index, piece in enumerate(regex.split(f"({'|'.join(names)})", text)):
        if piece:
            yield piece, special_ids[piece] if index % 2 else None


EXERCISE = Exercise(
    stub=split_special,
    reference="tokenizer.interface:split_special",
    cases=cases,
    hints=(
        "regex.split with a group in the pattern keeps the separators: every second piece is a separator.",
        "Escape the allowed texts by regex.escape and join them by |. A regular expression takes the first alternative "
        "that fits, so the longest must come first.",
        "for index, piece in enumerate(regex.split(f'({alternatives})', text)): if piece: yield piece, special_ids[piece] "
        "if index % 2 else None. Where nothing is allowed, yield (text, None) before.",
    ),
    mistakes=(
        Mistake(
            _mistaken("all_allowed"),
            "only what the caller allows is recognised; anything else is text that a user typed",
        ),
        Mistake(_mistaken("empty_pieces"), "empty text between two special tokens is not yielded"),
        Mistake(
            _mistaken("shortest_first"),
            "if special tokens begin with the same characters, the longest counts: put it first",
        ),
        Mistake(_bare, "the texts must be escaped by regex.escape: in a regular expression, | separates alternatives"),
        Mistake(
            _mistaken("not_escaped"),
            "a text such as 'a.b' must be escaped: in a regular expression, . stands for any character",
        ),
    ),
)
