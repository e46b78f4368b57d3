"""Byte-level BPE: encode and decode with learned merges.

Byte pair encoding (Gage, 1994; Sennrich et al., 2016) starts from single symbols and replaces the
most frequent pair by a new symbol, again and again. Here the symbols are the 256 bytes, as in
GPT-2, so that any text can be encoded and nothing is ever unknown.

`tokenizer_trainer` learns the merges; this module applies them. A short text is encoded pre-token by
pre-token, a long one with the arrays of `bulk_encoder`. The ids are the same.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from groundwork.user_errors import require_texts
from tokenizer.bulk_encoder import BulkEncoder
from tokenizer.interface import Tokenizer, TokenizerError, check_special_tokens, split_special
from tokenizer.merging import Merger, Pair
from tokenizer.patterns import GPT2_PATTERN, PreTokenizer, replace_surrogates, to_utf8
from tokenizer.pre_token_table import PIECE_LENGTH

BULK_LENGTH = 4000  # characters; from this length on, arrays are faster
# Pre-tokens repeat (Zipf's law), so their ids are remembered; the bound keeps memory constant.
CACHE_SIZE = 1 << 18
LONGEST_CACHED = 64  # characters; longer pre-tokens rarely occur twice
LONGEST_SPELLING = 1 << 26  # bytes of all tokens together; 200,000 real ones have about 1 << 21


class BPETokenizer(Tokenizer):
    """Tokens are the 256 bytes, then one for each merge in the order learned, then the special tokens.

    >>> tokenizer = BPETokenizer(merges=[(104, 105), (32, 256)])  # "h" + "i", " " + "hi"
    >>> tokenizer.encode("hi hi!")
    [256, 257, 33]

    Args:
        merges: pairs of token numbers; earlier ones have priority, and each may use the tokens made before it.
        special_tokens: texts that get an id of their own, in order.
        pattern: cuts text into pre-tokens.
        ids: the id of each token in that order; None for 0, 1, 2, …. GPT-2, for example, numbers the bytes
            in another order. Numbers may be left out.
        nfc: compose characters before anything else, so that é is one character however it was typed
            (Unicode's normalization form C). Qwen's models do this. A text then decodes to its composed form.

    Raises:
        TokenizerError: a merge uses a token that does not exist yet or is listed twice, the tokens are absurdly long,
            specials or ids repeat, or the pattern is not a regular expression.
    """

    type_name: ClassVar[str] = "bpe"

    def __init__(
        self,
        merges: Iterable[Pair],
        special_tokens: Iterable[str] = (),
        pattern: str = GPT2_PATTERN,
        ids: Sequence[int] | None = None,
        nfc: bool = False,
    ):
        self.nfc = nfc
        self.merges = [(int(left), int(right)) for left, right in merges]
        self.pattern = pattern
        token_bytes = _spell_tokens(self.merges)
        specials = check_special_tokens(special_tokens)
        tokens = len(token_bytes) + len(specials)
        self.ids = list(range(tokens)) if ids is None else [int(index) for index in ids]
        if len(self.ids) != tokens or len(set(self.ids)) != tokens or min(self.ids) < 0:
            raise TokenizerError(f"{tokens} tokens need as many ids, all different and none below 0")
        if max(self.ids) >= 1 << 32:
            raise TokenizerError(f"an id must be below 2³², got {max(self.ids)}")

        special_ids = self.ids[len(token_bytes) :]
        self._special_ids = dict(zip(specials, special_ids, strict=True))
        self._bytes_of_id = dict(zip(self.ids, [*token_bytes, *map(to_utf8, specials)], strict=True))
        self._pre_tokenizer = PreTokenizer(pattern)
        self._merger = Merger(self.merges)
        self._bulk = BulkEncoder(self._pre_tokenizer, self._merger, np.array(self.ids, dtype=np.uint32))
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def from_vocabulary(
        cls,
        vocab: Mapping[int, bytes],
        merges: Iterable[tuple[bytes, bytes]],
        special_tokens: Iterable[str] | Mapping[str, int] = (),
        pattern: str = GPT2_PATTERN,
        nfc: bool = False,
    ) -> BPETokenizer:
        """Build a tokenizer from tokens that are given by their bytes, as other trainers and files have them.

        >>> vocab = {byte: bytes([byte]) for byte in range(256)} | {256: b"hi", 257: b" hi"}
        >>> BPETokenizer.from_vocabulary(vocab, [(b"h", b"i"), (b" ", b"hi")], ["<|endoftext|>"]).encode("hi hi!")
        [256, 257, 33]

        Args:
            vocab: the bytes of each id.
            merges: pairs of tokens, in the order learned; they make every token except the 256 single bytes.
            special_tokens: texts of special tokens; each gets the id at which `vocab` holds it, or else the next
                free id. A mapping gives the text and id of each instead.
            pattern: cuts text into pre-tokens.
            nfc: see the class.

        Raises:
            TokenizerError: a byte has no id, or vocabulary and merges do not fit.
        """
        if isinstance(special_tokens, Mapping):
            special_ids = dict(special_tokens)
        else:
            id_of = {token: index for index, token in vocab.items()}
            free = max(vocab, default=-1) + 1
            specials = check_special_tokens(special_tokens)
            new = [text for text in specials if to_utf8(text) not in id_of]
            special_ids = {text: free + new.index(text) if text in new else id_of[to_utf8(text)] for text in specials}
        reserved = set(special_ids.values())
        ids = {token: index for index, token in vocab.items() if index not in reserved}
        if len(ids) != len(vocab.keys() - reserved):
            raise TokenizerError("two ids of the vocabulary have the same bytes")
        missing = [byte for byte in range(256) if bytes([byte]) not in ids]
        if missing:
            raise TokenizerError(f"the vocabulary lacks {len(missing)} of the 256 bytes, such as {missing[0]:#04x}")
        number = {bytes([byte]): byte for byte in range(256)}
        numbered: list[Pair] = []
        for left, right in merges:
            if left not in number or right not in number or left + right not in ids:
                raise TokenizerError(f"merge {len(numbered)} joins {left!r} and {right!r}, which the vocabulary lacks")
            numbered.append((number[left], number[right]))
            number[left + right] = 255 + len(numbered)
        if len(ids) != len(number):
            stray = next(token for token in ids if token not in number)
            raise TokenizerError(f"{len(ids) - len(number)} tokens are made by no merge, such as {stray!r}")
        in_order = sorted(special_ids, key=special_ids.__getitem__)
        all_ids = [*(ids[token] for token in number), *(special_ids[text] for text in in_order)]
        plain = list(range(len(all_ids)))
        return cls(numbered, in_order, pattern, None if all_ids == plain else all_ids, nfc)

    @property
    def vocab(self) -> dict[int, bytes]:
        """The bytes of each id, in the order of the tokens. See `Tokenizer.vocab`."""
        return dict(self._bytes_of_id)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id. If no id is left out, this is 256 bytes + merges + special tokens."""
        return max(self.ids) + 1

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
        if len(text) >= BULK_LENGTH:
            return self.encode_to_array(text, allowed_special).tolist()
        ids: list[int] = []
        for piece, special_id in split_special(text, self._special_ids, allowed_special):
            ids += self._encode_short(self._normalise(piece)) if special_id is None else [special_id]
        return ids

    def _normalise(self, text: str) -> str:
        return unicodedata.normalize("NFC", text) if self.nfc else text

    def encode_to_array(self, text: str, allowed_special: Literal["all"] | Collection[str] = ()) -> NDArray[np.uint32]:
        """Encode a text of any length into an array. See `Tokenizer.encode_to_array`."""
        return self.encode_batch_to_array([text], allowed_special)[0]

    def encode_batch_to_array(
        self, texts: Iterable[str], allowed_special: Literal["all"] | Collection[str] = ()
    ) -> tuple[NDArray[np.uint32], NDArray[np.intp]]:
        """Encode many texts, faster than one by one. See `Tokenizer.encode_batch_to_array`."""
        require_texts(texts, "texts")
        pieces: list[str] = []
        special_ids: list[int] = []
        pieces_before_special: list[int] = []
        pieces_before_end: list[int] = []  # of each text
        specials_before_end: list[int] = []
        for text in texts:
            for part, special_id in split_special(text, self._special_ids, allowed_special):
                if special_id is None:
                    pieces += self._pre_tokenizer.pieces(self._normalise(part), PIECE_LENGTH)
                else:
                    special_ids.append(special_id)
                    pieces_before_special.append(len(pieces))
            pieces_before_end.append(len(pieces))
            specials_before_end.append(len(special_ids))
        ids, ends = self._bulk.encode(pieces)
        ends = np.append(0, ends)
        if special_ids:
            ids = np.insert(ids, ends[pieces_before_special], special_ids)
        return ids, ends[pieces_before_end] + np.array(specials_before_end, dtype=np.intp)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of the ids. See `Tokenizer.decode_bytes`."""
        try:
            return b"".join(map(self._bytes_of_id.__getitem__, ids))
        except KeyError as error:
            raise TokenizerError(f"id {error.args[0]} is outside the vocabulary of {self.vocab_size}") from None

    def last_safe_cut(self, text: str, start: int, end: int) -> int:
        """See `Tokenizer.last_safe_cut`; -1 for every text if the pattern is not one of `patterns`, or with `nfc`."""
        return -1 if self.nfc else self._pre_tokenizer.last_safe_cut(text, start, end)

    def merge_steps(self, pre_token: str) -> list[list[bytes]]:
        """The merging of one pre-token, step by step: its bytes, then the tokens after each merge.

        >>> BPETokenizer([(104, 105), (32, 256)]).merge_steps(" hi")
        [[b' ', b'h', b'i'], [b' ', b'hi'], [b' hi']]
        """
        spelled = _spell_tokens(self.merges)
        return [[spelled[token] for token in step] for step in self._merger.steps(to_utf8(pre_token))]

    def _encode_short(self, text: str) -> list[int]:
        if not text.isascii():
            text = replace_surrogates(text)
        cache, ids = self._cache, []
        for pre_token in self._pre_tokenizer.split(text):
            known = cache.get(pre_token)
            if known is None:
                known = [self.ids[token] for token in self._merger.merge(pre_token.encode("utf-8"))]
                if len(pre_token) <= LONGEST_CACHED:
                    if len(cache) >= CACHE_SIZE:
                        cache.clear()
                    cache[pre_token] = known
            ids += known
        return ids

    def to_json(self) -> dict[str, Any]:
        """Pattern, special tokens, merges, the ids where they are not in order, and `nfc` where it is set."""
        content: dict[str, Any] = {
            "pattern": self.pattern,
            "special_tokens": list(self._special_ids),
            "merges": self.merges,
        }
        if self.ids != list(range(len(self.ids))):
            content["ids"] = self.ids
        return {**content, "nfc": True} if self.nfc else content

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BPETokenizer:
        """Inverse of `to_json`."""
        return cls(data["merges"], data["special_tokens"], data["pattern"], data.get("ids"), data.get("nfc", False))

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], BPETokenizer], tuple[dict[str, Any]]]:
        # For other processes: what defines the tokenizer, without its caches.
        return BPETokenizer.from_json, (self.to_json(),)


def _spell_tokens(merges: Sequence[Pair]) -> list[bytes]:
    """The bytes of each token: the 256 single ones, then those of each merge.

    Raises:
        TokenizerError: a merge uses a token that does not exist yet, or is listed twice; or the tokens are too long: each
            merge can double a token, so that 40 short lines would stand for a token of 2⁴⁰ bytes.
    """
    token_bytes = [bytes([byte]) for byte in range(256)]
    spelled = 256
    for index, (left, right) in enumerate(merges):
        if not (0 <= left < 256 + index and 0 <= right < 256 + index):
            raise TokenizerError(f"merge {index} joins ({left}, {right}), but only tokens below {256 + index} exist")
        spelled += len(token_bytes[left]) + len(token_bytes[right])
        if spelled > LONGEST_SPELLING:
            raise TokenizerError(f"merge {index} makes the tokens longer than {LONGEST_SPELLING:,} bytes together")
        token_bytes.append(token_bytes[left] + token_bytes[right])
    if len(set(merges)) != len(merges):
        twice = next(pair for index, pair in enumerate(merges) if pair in merges[:index])
        raise TokenizerError(f"the merge {twice} is listed twice")
    return token_bytes
