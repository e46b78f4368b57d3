"""Normalizers: what is done to a text before it is cut.

Each is a function from text to text, and follows the step of `tokenizer.json` with the same name.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

import regex

from tokenizer.interface import TokenizerError
from tokenizer.interop import to_printable
from tokenizer.pipeline.foreign_patterns import compile_pattern

Normalize = Callable[[str], str]
FORMS = ("NFC", "NFD", "NFKC", "NFKD")
_MARKS, _ACCENTS = regex.compile(r"\p{M}+"), regex.compile(r"\p{Mn}+")
_SPACE_AT_START, _SPACE_AT_END = regex.compile(r"\A\s+"), regex.compile(r"\s+\Z")
# For BERT: what is dropped, what becomes a space, and what gets spaces around it.
_CONTROL, _SPACE = regex.compile(r"[\0\uFFFD]|(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}]"), regex.compile(r"\s")
_CHINESE = regex.compile(
    "[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f\U0002b920-\U0002ceaf"
    "\uf900-\ufaff\U0002f800-\U0002fa1f]"
)


def build_normalizer(step: dict[str, Any] | None) -> Normalize:
    """The function of a normalizer as `tokenizer.json` describes it; None changes nothing.

    Raises:
        TokenizerError: it is of a kind that is not supported.
    """
    if step is None:
        return str
    kind = step["type"]
    if kind == "Sequence":
        return _in_order([build_normalizer(part) for part in step["normalizers"]])
    if kind in FORMS:
        return lambda text: text if text.isascii() else unicodedata.normalize(kind, text)
    if kind == "Lowercase":
        return lowercase
    if kind == "StripAccents":
        return lambda text: _MARKS.sub("", text)
    if kind == "Prepend":
        return lambda text: step["prepend"] + text if text else text
    if kind == "Replace":
        pattern, content = compile_pattern(step["pattern"]), step["content"]
        return lambda text: pattern.sub(lambda _: content, text)
    if kind == "Strip":
        return _strip(step["strip_left"], step["strip_right"])
    if kind == "ByteLevel":
        return lambda text: to_printable(text.encode("utf-8"))
    if kind == "BertNormalizer":
        return _bert(step)
    raise TokenizerError(f"its normalizer {kind} is not supported")


def lowercase(text: str) -> str:
    """Lower case, each character by itself: a capital sigma at the end of a word becomes σ, not ς."""
    return text.lower() if "Σ" not in text else "".join(character.lower() for character in text)


def _in_order(steps: list[Normalize]) -> Normalize:
    def normalize(text: str) -> str:
        for step in steps:
            text = step(text)
        return text

    return normalize


def _strip(left: bool, right: bool) -> Normalize:
    def normalize(text: str) -> str:
        text = _SPACE_AT_START.sub("", text) if left else text
        return _SPACE_AT_END.sub("", text) if right else text

    return normalize


def _bert(step: dict[str, Any]) -> Normalize:
    steps: list[Normalize] = []
    if step["clean_text"]:
        steps.append(lambda text: _SPACE.sub(" ", _CONTROL.sub("", text)))
    if step["handle_chinese_chars"]:
        steps.append(lambda text: _CHINESE.sub(lambda match: f" {match.group()} ", text))
    strip = step["strip_accents"]
    if step["lowercase"] if strip is None else strip:
        steps.append(lambda text: _ACCENTS.sub("", unicodedata.normalize("NFD", text)))
    if step["lowercase"]:
        steps.append(lowercase)
    return _in_order(steps)
