"""Bytes as they are: 256 ids and nothing to learn.

This is the shortest tokenizer that can encode everything, and it makes the longest sequences. Models that
read bytes, such as ByT5 (Xue et al., 2022), use it. Here BPE is measured against it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tokenizer.interface import Tokenizer, TokenizerError, check_special_tokens, split_special
from tokenizer.patterns import to_utf8


class ByteTokenizer(Tokenizer):
    """Byte b is id b; special tokens come from 256 on.

    >>> ByteTokenizer().encode("hé")
    [104, 195, 169]

    Args:
        special_tokens: texts that get an id of their own, in order.

    Raises:
        TokenizerError: special tokens repeat.
    """

    type_name: ClassVar[str] = "byte"

    def __init__(self, special_tokens: Iterable[str] = ()):
        specials = check_special_tokens(special_tokens)
        self._special_ids = {text: 256 + index for index, text in enumerate(specials)}
        self._special_bytes = [to_utf8(text) for text in specials]

    @property
    def vocab_size(self) -> int:
        """256 and the special tokens."""
        return 256 + len(self._special_bytes)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Text and id of each special token."""
        return dict(self._special_ids)

    def encode(self, text: str, allowed_special: Literal["all"] | Collection[str] = ()) -> list[int]:
        """One id for each UTF-8 byte; a lone surrogate is encoded as U+FFFD. See `Tokenizer.encode`."""
        return self.encode_to_array(text, allowed_special).tolist()

    def encode_to_array(self, text: str, allowed_special: Literal["all"] | Collection[str] = ()) -> NDArray[np.uint32]:
        """The same ids in an array."""
        parts = [
            np.frombuffer(to_utf8(piece), dtype=np.uint8) if special_id is None else np.array([special_id])
            for piece, special_id in split_special(text, self._special_ids, allowed_special)
        ]
        return np.concatenate([np.empty(0, dtype=np.uint8), *parts]).astype(np.uint32)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The ids as bytes. See `Tokenizer.decode_bytes`."""
        decoded = bytearray()
        for index in ids:
            if not 0 <= index < self.vocab_size:
                raise TokenizerError(f"id {index} is outside the vocabulary of {self.vocab_size}")
            decoded += bytes([index]) if index < 256 else self._special_bytes[index - 256]
        return bytes(decoded)

    def last_safe_cut(self, text: str, start: int, end: int) -> int:
        """Anywhere except within a pair of surrogates. See `Tokenizer.last_safe_cut`."""
        end = min(end, len(text))
        if 0 < end < len(text) and "\ud800" <= text[end - 1] <= "\udbff":
            end -= 1
        return end if end > start else -1

    def to_json(self) -> dict[str, Any]:
        """The special tokens."""
        return {"special_tokens": list(self._special_ids)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ByteTokenizer:
        """Inverse of `to_json`."""
        return cls(data["special_tokens"])
