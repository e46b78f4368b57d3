"""Decoders: from tokens back to the bytes of the text.

`tokenizer.json` describes a chain of steps over all tokens of a text. But what a token becomes depends on nothing else
than itself, and on whether it is the first: SentencePiece's sign for a space is dropped at the beginning of a text,
WordPiece puts a space before every word but the first. So each token has two forms in bytes, and a text can be decoded
token by token, as a model writes it.
"""

from __future__ import annotations

from typing import Any

import regex

from tokenizer.interface import TokenizerError
from tokenizer.interop import BYTE_OF_CHARACTER
from tokenizer.pipeline.foreign_patterns import compile_pattern

BYTE_TOKEN = regex.compile(r"<0x([0-9A-Fa-f]{2})>")
_CLEAN_UP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


class TokenDecoder:
    """Turns one token at a time into bytes.

    >>> steps = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}
    >>> decoder = TokenDecoder(steps)
    >>> decoder.decode("▁to", first=True) + decoder.decode("▁be", first=False)
    b'to be'

    Args:
        decoder: as `tokenizer.json` describes it; None puts a space between two tokens.

    Raises:
        TokenizerError: a step is not supported, or not in this order.
    """

    def __init__(self, decoder: dict[str, Any] | None):
        steps: list[dict[str, Any]] = _flatten(decoder) if decoder is not None else [{"type": "Spaces"}]
        self._steps: list[dict[str, Any]] = []
        self._byte_level = self._byte_fallback = self._strip_start = False
        self._patterns = {
            index: compile_pattern(s["pattern"]) for index, s in enumerate(steps) if s["type"] == "Replace"
        }
        fused = False
        for step in steps:
            kind = step["type"]
            if fused and not (kind == "Strip" and step["start"] <= 1 and not step["stop"]):
                raise TokenizerError(f"its decoder has {kind} after all tokens are joined, which is not supported")
            if kind == "Strip" and fused:
                self._strip_start, self._stripped = step["start"] == 1, step["content"]
            elif kind == "Fuse":
                fused = True
            elif kind == "ByteLevel":
                self._byte_level = fused = True
            elif kind in ("Replace", "ByteFallback", "Metaspace", "Strip", "WordPiece", "Spaces"):
                self._byte_fallback |= kind == "ByteFallback"
            else:
                raise TokenizerError(f"its decoder {kind} is not supported")
            self._steps.append(step)

    def decode(self, token: str, first: bool) -> bytes:
        """The bytes of a token.

        Args:
            token: its text in the vocabulary.
            first: whether it begins the text.
        """
        for index, step in enumerate(self._steps):
            kind = step["type"]
            if kind == "Replace":
                token = self._patterns[index].sub(lambda _, content=step["content"]: content, token)
            elif kind == "ByteFallback":
                if match := BYTE_TOKEN.fullmatch(token):
                    return self._without_start(bytes([int(match.group(1), 16)]), first)
            elif kind == "Metaspace":
                drop = first and step.get("prepend_scheme", "always") != "never"
                token = token.replace(step["replacement"], "" if drop else " ")
            elif kind == "WordPiece":
                token = _word_piece(token, step, first)
            elif kind == "Spaces":
                token = token if first else " " + token
            elif kind == "Strip" and not self._joined_before(index):
                token = _strip(token, step)
            elif kind == "ByteLevel" and all(character in BYTE_OF_CHARACTER for character in token):
                return self._without_start(bytes(BYTE_OF_CHARACTER[character] for character in token), first)
        return self._without_start(token.encode("utf-8"), first)

    def _joined_before(self, index: int) -> bool:
        return any(step["type"] in ("Fuse", "ByteLevel") for step in self._steps[:index])

    def _without_start(self, data: bytes, first: bool) -> bytes:
        return data.removeprefix(self._stripped.encode("utf-8")) if first and self._strip_start else data


def _flatten(step: dict[str, Any]) -> list[dict[str, Any]]:
    if step["type"] == "Sequence":
        return [inner for part in step["decoders"] for inner in _flatten(part)]
    return [step]


def _word_piece(token: str, step: dict[str, Any], first: bool) -> str:
    if not first:
        prefix = step["prefix"]
        token = token.removeprefix(prefix) if token.startswith(prefix) else " " + token
    if step["cleanup"]:
        for old, new in _CLEAN_UP:
            token = token.replace(old, new)
    return token


def _strip(token: str, step: dict[str, Any]) -> str:
    content = step["content"]
    for _ in range(step["start"]):
        token = token.removeprefix(content)
    for _ in range(step["stop"]):
        token = token.removesuffix(content)
    return token
