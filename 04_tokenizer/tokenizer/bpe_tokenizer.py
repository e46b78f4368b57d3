"""Byte-level BPE: encode and decode with learned merges.

Byte pair encoding (Gage, 1994; Sennrich et al., 2016) starts from single symbols and replaces the
most frequent pair by a new symbol, again and again. Here the symbols are the 256 bytes, as in
GPT-2, so that any text can be encoded and nothing is ever unknown.

`tokenizer_trainer` learns the merges; this module applies them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import pairwise
from typing import Any, ClassVar, Literal

import regex

from tokenizer.interface import Tokenizer, TokenizerError, split_special
from tokenizer.patterns import GPT2_PATTERN

Pair = tuple[int, int]
# Pre-tokens repeat (Zipf's law), so their ids are remembered; the bound keeps memory constant.
CACHE_SIZE = 1 << 18
LONGEST_CACHED = 64  # characters; longer pre-tokens hardly ever come twice


class BPETokenizer(Tokenizer):
    """Ids 0–255 are the bytes, then one id a merge in the order learned, then the special tokens.

    >>> tokenizer = BPETokenizer(merges=[(104, 105), (32, 256)])  # "h" + "i", " " + "hi"
    >>> tokenizer.encode("hi hi!")
    [256, 257, 33]

    Args:
        merges: pairs of ids, earlier ones having priority; each may use the ids made before it.
        special_tokens: texts that get an id of their own, in order.
        pattern: cuts text into pre-tokens.

    Raises:
        TokenizerError: a merge uses an id that does not exist yet, or specials are repeated or empty.
    """

    type_name: ClassVar[str] = "bpe"

    def __init__(self, merges: Iterable[Pair], special_tokens: Iterable[str] = (), pattern: str = GPT2_PATTERN):
        self.merges = [(int(left), int(right)) for left, right in merges]
        self.pattern = pattern
        self._pre_tokens = regex.compile(pattern)
        self._merged_id: dict[Pair, int] = {}
        self._token_bytes = [bytes([byte]) for byte in range(256)]
        for left, right in self.merges:
            new_id = len(self._token_bytes)
            if not (0 <= left < new_id and 0 <= right < new_id):
                raise TokenizerError(f"merge {new_id - 256} joins ({left}, {right}), but only ids below {new_id} exist")
            if (left, right) in self._merged_id:
                raise TokenizerError(f"the merge ({left}, {right}) is listed twice")
            self._merged_id[left, right] = new_id
            self._token_bytes.append(self._token_bytes[left] + self._token_bytes[right])

        specials = list(special_tokens)
        if len(set(specials)) != len(specials) or "" in specials:
            raise TokenizerError(f"special tokens must be distinct and not empty, got {specials}")
        self._special_ids = {text: len(self._token_bytes) + index for index, text in enumerate(specials)}
        self._token_bytes += [text.encode("utf-8") for text in specials]
        self._cache: dict[str, list[int]] = {}

    @property
    def vocab_size(self) -> int:
        """256 bytes, the merges and the special tokens."""
        return len(self._token_bytes)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Text and id of each special token."""
        return dict(self._special_ids)

    def encode(self, text: str, allowed_special: Literal["all"] | Collection[str] = ()) -> list[int]:
        """Text to ids. See `Tokenizer.encode`.

        A lone surrogate, which UTF-8 cannot hold, is encoded as U+FFFD, the replacement character.

        Raises:
            TokenizerError: `allowed_special` names a token that does not exist.
        """
        ids: list[int] = []
        for piece, special_id in split_special(text, self._special_ids, allowed_special):
            ids += self._encode_ordinary(piece) if special_id is None else [special_id]
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of the ids. See `Tokenizer.decode_bytes`."""
        parts = []
        for index in ids:
            if not 0 <= index < len(self._token_bytes):
                raise TokenizerError(f"id {index} is outside the vocabulary of {self.vocab_size}")
            parts.append(self._token_bytes[index])
        return b"".join(parts)

    def _encode_ordinary(self, text: str) -> list[int]:
        cache, ids = self._cache, []
        for pre_token in self._pre_tokens.findall(text):
            known = cache.get(pre_token)
            if known is None:
                known = self._merge(list(to_utf8(pre_token)))
                if len(pre_token) <= LONGEST_CACHED:
                    if len(cache) >= CACHE_SIZE:
                        cache.clear()
                    cache[pre_token] = known
            ids += known
        return ids

    def _merge(self, ids: list[int]) -> list[int]:
        """Apply merges to one pre-token, always the earliest learned one that is possible."""
        merged_id, never = self._merged_id, len(self._token_bytes)
        while len(ids) > 1:
            # New ids are handed out in the order of learning, so the smallest one comes first.
            best = min(merged_id.get(pair, never) for pair in pairwise(ids))
            if best == never:
                break
            ids = replace_pair(ids, self.merges[best - 256], best)
        return ids

    def to_json(self) -> dict[str, Any]:
        """Pattern, special tokens and merges."""
        return {"pattern": self.pattern, "special_tokens": list(self._special_ids), "merges": self.merges}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BPETokenizer:
        """Inverse of `to_json`."""
        return cls(data["merges"], data["special_tokens"], data["pattern"])


def to_utf8(text: str) -> bytes:
    """UTF-8 bytes; a lone surrogate becomes U+FFFD, as Rust tokenizers have it."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", errors="surrogatepass").decode("utf-16", errors="replace").encode("utf-8")


def replace_pair(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    """Replace every occurrence of a pair, from left to right.

    >>> replace_pair([1, 1, 1, 2], (1, 1), 9)
    [9, 1, 2]
    """
    left, right = pair
    replaced: list[int] = []
    index, last = 0, len(ids) - 1
    while index <= last:
        if index < last and ids[index] == left and ids[index + 1] == right:
            replaced.append(new_id)
            index += 2
        else:
            replaced.append(ids[index])
            index += 1
    return replaced
