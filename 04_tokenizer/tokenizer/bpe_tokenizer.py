"""Byte-level BPE: encode and decode with learned merges.

Byte pair encoding (Gage, 1994; Sennrich et al., 2016) starts from single symbols and replaces the
most frequent pair by a new symbol, again and again. Here the symbols are the 256 bytes, as in
GPT-2, so that any text can be encoded and nothing is ever unknown.

`tokenizer_trainer` learns the merges; this module applies them. A short text is encoded pre-token by pre-token, as
`_encode_plainly` reads; a longer one by the compiled loop of `encoding_loop`. The ids are the same.
"""

from __future__ import annotations

import operator
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from groundwork.compiled import kernels_are_compiled
from groundwork.user_errors import require_texts
from tokenizer.bpe_vocabulary import (
    NO_ID,
    NumberedVocabulary,
    check_distinct,
    made_tokens,
    number_tokens,
    spell_tokens,
)
from tokenizer.cutting import KINDS
from tokenizer.interface import Tokenizer, TokenizerError, check_special_tokens
from tokenizer.loop_encoder import LoopEncoder
from tokenizer.merging import Merger, Pair
from tokenizer.patterns import GPT2_PATTERN, PreTokenizer, replace_surrogates, to_utf8
from tokenizer.pipeline.added_tokens import AddedToken, AddedTokens
from tokenizer.text_frame import TextFrame

SHORT = 100  # characters; below, plain Python is fast enough, and nothing has to be compiled or loaded for it
CACHE_SIZE = 1 << 16  # pre-tokens repeat (Zipf's law), so the ids of this many are remembered


class BPETokenizer(Tokenizer):
    """Tokens are the 256 bytes, then one for each merge in the order learned, then the special tokens.

    >>> tokenizer = BPETokenizer(merges=[(104, 105), (32, 256)])  # "h" + "i", " " + "hi"
    >>> tokenizer.encode("hi hi!")
    [256, 257, 33]

    Args:
        merges: pairs of token numbers; earlier ones have priority, and each may use the tokens made before it.
        special_tokens: texts that get an id of their own, in order; an `AddedToken` says more about how it is found.
        pattern: cuts text into pre-tokens.
        ids: the id of each token in that order; None for 0, 1, 2, …. GPT-2, for example, numbers the bytes
            in another order. Numbers may be left out. -1 marks a byte that the vocabulary lacks; in a text such a
            byte is left out, as `tokenizers` does.
        nfc: compose characters before anything else, so that é is one character however it was typed
            (Unicode's normalization form C). Qwen's models do this. A text then decodes to its composed form.
        tokens: the tokens, the 256 bytes first; None where each merge makes the next one. With it, several merges may
            make the same token, and merges and tokens may come in any order, as in Llama 3's vocabulary.
        ignore_merges: a pre-token that is a token becomes that token, whatever the merges say.

    Raises:
        TokenizerError: a merge uses a token that does not exist yet or is listed twice, the tokens are absurdly long,
            specials or ids repeat, or the pattern is not a regular expression.
    """

    type_name: ClassVar[str] = "bpe"

    def __init__(
        self,
        merges: Iterable[Pair],
        special_tokens: Iterable[str | AddedToken] = (),
        pattern: str = GPT2_PATTERN,
        ids: Sequence[int] | None = None,
        nfc: bool = False,
        tokens: Sequence[bytes] | None = None,
        ignore_merges: bool = False,
    ):
        self.nfc, self.ignore_merges = nfc, ignore_merges
        self.merges = [(int(left), int(right)) for left, right in merges]
        self.pattern = pattern
        self.tokens = spell_tokens(self.merges) if tokens is None else list(tokens)  # by number, added ones left out
        self.is_plain = tokens is None  # each merge makes the next token
        check_distinct(self.merges)
        added = [
            AddedToken(token) if isinstance(token, str) else token for token in check_special_tokens(special_tokens)
        ]
        self.ids = _checked_ids(ids, len(self.tokens) + len(added))
        self.added_tokens = AddedTokens(dict(zip(added, self.ids[len(self.tokens) :], strict=True)), self._normalise)
        missing = bytes(byte for byte in range(256) if self.ids[byte] == NO_ID)
        spelled = [*self.tokens, *(to_utf8(token.text) for token in added)]
        self._bytes_of_id = {index: data for index, data in zip(self.ids, spelled, strict=True) if index != NO_ID}
        self._pre_tokenizer = PreTokenizer(pattern)
        made = None if self.is_plain else made_tokens(self.tokens, self.merges)
        self._merger = Merger(self.merges, made, missing)
        self._whole = {token: number for number, token in enumerate(self.tokens)} if ignore_merges else {}
        for byte in missing:
            self._whole.pop(bytes([byte]), None)
        id_of_token = np.array(self.ids, dtype=np.int64).astype(np.uint32)
        self._loop = LoopEncoder(pattern, self._merger, id_of_token, self._whole)
        self._has_loop = pattern in KINDS and kernels_are_compiled()
        self._ids_of = lru_cache(CACHE_SIZE)(self._merge)

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
            vocab: the bytes of each id. Some of the 256 single bytes may be missing.
            merges: pairs of tokens, in the order learned; they make every token except the single bytes.
            special_tokens: texts of special tokens; each gets the id at which `vocab` holds it, or else the next
                free id. A mapping gives the text and id of each instead.
            pattern: cuts text into pre-tokens.
            nfc: see the class.

        Raises:
            TokenizerError: most bytes have no id, or vocabulary and merges do not fit.
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
        numbered = number_tokens(ids, merges)
        made = {left + right for left, right in ((numbered.tokens[a], numbered.tokens[b]) for a, b in numbered.merges)}
        stray = [token for token in ids if len(token) > 1 and token not in made]
        if stray:
            raise TokenizerError(f"{len(stray)} tokens are made by no merge, such as {stray[0]!r}")
        return cls.from_numbered(
            numbered, {AddedToken(text): index for text, index in special_ids.items()}, pattern, nfc
        )

    @classmethod
    def from_numbered(
        cls,
        vocabulary: NumberedVocabulary,
        added: Mapping[AddedToken, int],
        pattern: str = GPT2_PATTERN,
        nfc: bool = False,
        ignore_merges: bool = False,
    ) -> BPETokenizer:
        """Build a tokenizer from numbered tokens and the ids of the added ones."""
        in_order = sorted(added, key=added.__getitem__)
        ids = [*vocabulary.ids, *(added[token] for token in in_order)]
        tokens = None if vocabulary.is_plain else vocabulary.tokens
        plain_ids = ids == list(range(len(ids)))
        return cls(vocabulary.merges, in_order, pattern, None if plain_ids else ids, nfc, tokens, ignore_merges)

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
        return dict(self.added_tokens.special)

    @property
    def always_found(self) -> frozenset[str]:
        """See `Tokenizer.always_found`."""
        return frozenset(self.added_tokens.ids.keys() - self.added_tokens.special.keys())

    @property
    def ordinary_ids(self) -> list[int]:
        """Ids of the tokens that are not added, in the order of the tokens; `NO_ID` for a byte that is missing."""
        return self.ids[: len(self.tokens)]

    def encode(self, text: str, allowed_special: Literal["all"] | Collection[str] = ()) -> list[int]:
        """Text to ids. See `Tokenizer.encode`.

        A lone surrogate, which UTF-8 cannot hold, is encoded as U+FFFD, the replacement character.

        Raises:
            TokenizerError: `allowed_special` names a token that does not exist.
        """
        if len(text) >= SHORT and self._has_loop:
            return self.encode_to_array(text, allowed_special).tolist()
        ids: list[int] = []
        for piece, special_id in self.added_tokens.split(text, allowed_special):
            ids += self._encode_plainly(piece) if special_id is None else [special_id]
        return ids

    def parts(self, text: str, broken: Collection[int] = ()) -> Iterator[tuple[str, int | None]]:
        """See `Tokenizer.parts`."""
        return self.added_tokens.parts(text, broken)

    def encode_part(self, part: str, begins: bool, broken: bool = False) -> list[int]:
        """See `Tokenizer.encode_part`."""
        return self.encode(part, () if broken else "all")

    def _normalise(self, text: str) -> str:
        return unicodedata.normalize("NFC", text) if self.nfc else text

    def encode_to_array(self, text: str, allowed_special: Literal["all"] | Collection[str] = ()) -> NDArray[np.uint32]:
        """Encode a text of any length into an array. See `Tokenizer.encode_to_array`."""
        if not self._has_loop:
            return super().encode_to_array(text, allowed_special)
        return self._loop.encode([*self.added_tokens.split(text, allowed_special)])[0]

    def encode_batch_to_array(
        self, texts: Iterable[str], allowed_special: Literal["all"] | Collection[str] = ()
    ) -> tuple[NDArray[np.uint32], NDArray[np.intp]]:
        """Encode many texts, faster than one by one. See `Tokenizer.encode_batch_to_array`."""
        require_texts(texts, "texts")
        if not self._has_loop:
            return super().encode_batch_to_array(texts, allowed_special)
        parts: list[tuple[str, int | None]] = []
        before_end: list[int] = []  # parts up to the end of each text
        for text in texts:
            parts += self.added_tokens.split(text, allowed_special)
            before_end.append(len(parts))
        ids, ends = self._loop.encode(parts)
        return ids, ends[before_end]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of the ids. See `Tokenizer.decode_bytes`."""
        try:
            return b"".join(map(self._bytes_of_id.__getitem__, ids))
        except KeyError as error:
            raise TokenizerError(f"id {error.args[0]} is outside the vocabulary of {self.vocab_size}") from None

    def last_safe_cut(self, text: str, start: int, end: int) -> int:
        """See `Tokenizer.last_safe_cut`; -1 for every text if the pattern is not one of `patterns`, or with `nfc`."""
        return -1 if self.nfc or self.added_tokens.look_around else self._pre_tokenizer.last_safe_cut(text, start, end)

    def merge_steps(self, pre_token: str) -> list[list[bytes]]:
        """The merging of one pre-token, step by step: its bytes, then the tokens after each merge.

        >>> BPETokenizer([(104, 105), (32, 256)]).merge_steps(" hi")
        [[b' ', b'h', b'i'], [b' ', b'hi'], [b' hi']]
        """
        return [[self.tokens[token] for token in step] for step in self._merger.steps(to_utf8(pre_token))]

    def _encode_plainly(self, text: str) -> list[int]:
        if not text.isascii():
            text = replace_surrogates(text)
        return [token for pre_token in self._pre_tokenizer.split(text) for token in self._ids_of(pre_token)]

    def _merge(self, pre_token: str) -> list[int]:
        data = pre_token.encode()
        whole = self._whole.get(data)
        return [self.ids[token] for token in (self._merger.merge(data) if whole is None else [whole])]

    def to_json(self) -> dict[str, Any]:
        """Pattern, special tokens, merges, and what differs from a vocabulary that was trained here."""
        added = self.added_tokens.tokens
        content: dict[str, Any] = {"pattern": self.pattern, "special_tokens": list(added), "merges": self.merges}
        if self.ids != list(range(len(self.ids))):
            content["ids"] = self.ids
        if not self.is_plain:
            content["tokens"] = [token.decode("latin-1") for token in self.tokens[256:]]
        if options := {text: token.options for text, token in added.items() if token.options}:
            content["added_token_options"] = options
        if self.frame != TextFrame():
            content["frame"] = asdict(self.frame)
        flags = {"nfc": self.nfc, "ignore_merges": self.ignore_merges}
        return content | {name: True for name, value in flags.items() if value}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BPETokenizer:
        """Inverse of `to_json`."""
        options = data.get("added_token_options", {})
        tokens = data.get("tokens")
        tokenizer = cls(
            data["merges"],
            [AddedToken(text, **options.get(text, {})) for text in check_special_tokens(data["special_tokens"])],
            data["pattern"],
            data.get("ids"),
            data.get("nfc", False),
            None if tokens is None else [*spell_tokens([]), *(token.encode("latin-1") for token in tokens)],
            data.get("ignore_merges", False),
        )
        if "frame" in data:
            tokenizer.frame = TextFrame(tuple(data["frame"]["before"]), tuple(data["frame"]["after"]))
        return tokenizer

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], BPETokenizer], tuple[dict[str, Any]], dict[str, Any]]:
        # For other processes: what defines the tokenizer, without its caches.
        return BPETokenizer.from_json, (self.to_json(),), {"files": self.files}


def _checked_ids(ids: Sequence[int] | None, tokens: int) -> list[int]:
    checked = list(range(tokens)) if ids is None else [operator.index(index) for index in ids]
    given = [index for number, index in enumerate(checked) if number >= 256 or index != NO_ID]
    if len(checked) != tokens or len(set(given)) != len(given) or min(given, default=0) < 0:
        raise TokenizerError(f"{tokens} tokens need as many ids, all different and none below 0")
    if max(given, default=0) >= 1 << 32:
        raise TokenizerError(f"an id must be below 2³², got {max(given)}")
    return checked
