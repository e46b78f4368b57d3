"""Pre-tokenizers: how a normalized text is cut into the pieces that the model sees one by one.

Each step cuts the pieces of the step before it, and follows the step of `tokenizer.json` with the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import regex

from tokenizer.interface import TokenizerError
from tokenizer.interop import to_printable
from tokenizer.patterns import GPT2_PATTERN
from tokenizer.pipeline.foreign_patterns import compile_pattern
from tokenizer.pipeline.splitting import check_behavior, split

Cut = Callable[[str, bool], list[str]]  # (a piece that is not empty, whether it begins the text) → its pieces
_NUMBER, _SPACE, _WORDS = regex.compile(r"\p{N}"), regex.compile(r"\s"), regex.compile(r"\w+|[^\w\s]+")
_PUNCTUATION = regex.compile(r"[\p{P}$+<=>^`|~]")  # the symbols of ASCII count as punctuation
_GPT2 = regex.compile(GPT2_PATTERN)


class PreTokenizers:
    """Steps that cut one after the other.

    >>> digits, words = {"type": "Digits", "individual_digits": False}, {"type": "WhitespaceSplit"}
    >>> PreTokenizers([words, digits]).cut("in 1969 or so")
    ['in', '1969', 'or', 'so']

    Args:
        steps: as `tokenizer.json` describes them; see `flatten`.

    Raises:
        TokenizerError: a step is not supported.
    """

    def __init__(self, steps: list[dict[str, Any]]):
        self._cuts = [_build(step) for step in steps]
        kinds = [step["type"] for step in steps]
        for place, step in enumerate(steps):
            if place and step["type"] == "Metaspace" and _scheme(step) == "first":
                raise TokenizerError(f"its pre-tokenizer Metaspace after {kinds[place - 1]} with prepend_scheme first")

    def cut(self, text: str, begins: bool = True) -> list[str]:
        """The pieces of a text.

        Args:
            text: any text.
            begins: whether it is the beginning of the text.
        """
        pieces = [text]
        for cut in self._cuts:
            new: list[str] = []
            first = begins
            for piece in pieces:
                if piece:
                    new += cut(piece, first)
                first = False
            pieces = new
        return [piece for piece in pieces if piece]


def flatten(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a pre-tokenizer, without the sequences that they may stand in."""
    if step is None:
        return []
    if step["type"] == "Sequence":
        return [inner for part in step["pretokenizers"] for inner in flatten(part)]
    return [step]


def _build(step: dict[str, Any]) -> Cut:
    kind = step["type"]
    if kind == "ByteLevel":
        return _byte_level(step.get("add_prefix_space", True), step.get("use_regex", True))
    if kind == "Split":
        pattern, behavior = compile_pattern(step["pattern"]), check_behavior(step["behavior"])
        invert = step.get("invert", False)
        return lambda text, _: split(text, pattern, behavior, invert)
    if kind == "Digits":
        behavior = "Isolated" if step["individual_digits"] else "Contiguous"
        return lambda text, _: split(text, _NUMBER, behavior)
    if kind == "Punctuation":
        behavior = check_behavior(step.get("behavior", "Isolated"))
        return lambda text, _: split(text, _PUNCTUATION, behavior)
    if kind == "Whitespace":
        return lambda text, _: split(text, _WORDS, "Removed", invert=True)
    if kind == "WhitespaceSplit":
        return lambda text, _: split(text, _SPACE, "Removed")
    if kind == "BertPreTokenizer":
        return lambda text, _: [
            piece for word in split(text, _SPACE, "Removed") if word for piece in split(word, _PUNCTUATION, "Isolated")
        ]
    if kind == "CharDelimiterSplit":
        delimiter = regex.compile(regex.escape(step["delimiter"]))
        return lambda text, _: split(text, delimiter, "Removed")
    if kind == "Metaspace":
        return _metaspace(step["replacement"], _scheme(step), step.get("split", True))
    raise TokenizerError(f"its pre-tokenizer {kind} is not supported")


def _byte_level(add_prefix_space: bool, use_regex: bool) -> Cut:
    def cut(text: str, _: bool) -> list[str]:
        if add_prefix_space and not text.startswith(" "):
            text = " " + text
        pieces = _GPT2.findall(text) if use_regex else [text]
        return [to_printable(piece.encode("utf-8")) for piece in pieces]

    return cut


def _scheme(step: dict[str, Any]) -> str:
    """When Metaspace puts its sign before a text; files of older versions say it in another way."""
    scheme = step.get("prepend_scheme")
    if scheme is None:
        scheme = "always" if step.get("add_prefix_space", True) else "never"
    return str(scheme)


def _metaspace(sign: str, scheme: str, cuts: bool) -> Cut:
    words = regex.compile(f"{regex.escape(sign)}[^{regex.escape(sign)}]*|[^{regex.escape(sign)}]+")

    def cut(text: str, begins: bool) -> list[str]:
        text = text.replace(" ", sign)
        if (scheme == "always" or (scheme == "first" and begins)) and not text.startswith(sign):
            text = sign + text
        return words.findall(text) if cuts else [text]

    return cut
