"""WordPiece, the tokenizer of BERT: the longest piece first, within words.

Text is cut at white space, which is lost, and around each punctuation mark (Schuster & Nakajima, 2012;
Devlin et al., 2019). In each word the longest piece of the vocabulary that begins the word is taken, then
the longest piece that continues it, and so on. Pieces that continue a word are written with ## before them.
A word that cannot be built in this way becomes `[UNK]` as a whole. BPE, by contrast, applies its merges in
order, keeps white space, and knows every byte.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, ClassVar, Literal

import regex

from tokenizer.interface import Tokenizer, TokenizerError, check_special_tokens, split_special
from tokenizer.patterns import replace_surrogates

UNKNOWN = "[UNK]"
CONTINUATION = "##"
_AS_IN_BERT: dict[str, Any] = {"unknown": UNKNOWN, "continuation": CONTINUATION, "longest_word": 100}
SPECIAL_TOKENS = ("[PAD]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]")
# BERT counts these ASCII symbols as punctuation, although Unicode classes them as symbols.
_WORD = regex.compile(r"[^\s\p{P}$+<=>^`|~]+|[\p{P}$+<=>^`|~]")
_SPACE_AHEAD = regex.compile(r"(?r)\S(?=\s)")
_CACHE_SIZE = 1 << 18


def split_words(text: str) -> list[str]:
    """Words and single punctuation marks; white space is dropped.

    >>> split_words("It's 3.50 €.")
    ['It', "'", 's', '3', '.', '50', '€', '.']
    """
    return _WORD.findall(text)


class WordPieceTokenizer(Tokenizer):
    """The pieces have ids in their order; special tokens come after.

    >>> tokenizer = WordPieceTokenizer(["un", "##aff", "##able", "##ord"])
    >>> tokenizer.encode("unaffordable")
    [0, 1, 3, 2]
    >>> tokenizer.decode([0, 1, 3, 2, 0])
    'unaffordable un'

    Args:
        vocabulary: pieces; those that continue a word begin with ##.
        special_tokens: texts that get ids after the pieces; the unknown token must be among them.
        unknown: the unknown token.
        continuation: begins the pieces that continue a word.
        longest_word: in characters; a longer one is unknown, as in BERT.

    Raises:
        TokenizerError: pieces repeat or are empty, or the unknown token is missing.
    """

    type_name: ClassVar[str] = "wordpiece"

    def __init__(
        self,
        vocabulary: Iterable[str],
        special_tokens: Iterable[str] = SPECIAL_TOKENS,
        unknown: str = UNKNOWN,
        continuation: str = CONTINUATION,
        longest_word: int = 100,
    ):
        self.vocabulary = list(vocabulary)
        self._unknown, self._continuation, self._longest_word = unknown, continuation, longest_word
        specials = check_special_tokens(special_tokens)
        self._texts = [*self.vocabulary, *specials]
        self._ids = {piece: index for index, piece in enumerate(self.vocabulary)}
        if len(set(self._texts)) != len(self._texts) or "" in self._ids or continuation in self._ids:
            raise TokenizerError("a WordPiece vocabulary needs pieces that are distinct and not empty")
        if unknown not in specials:
            raise TokenizerError(f"a WordPiece vocabulary needs the special token {unknown}, got {specials}")
        self._special_ids = {text: len(self.vocabulary) + index for index, text in enumerate(specials)}
        self._longest = max(map(len, self.vocabulary), default=0)
        self._cache: dict[str, list[int]] = {}

    @property
    def vocab_size(self) -> int:
        """Number of pieces and special tokens."""
        return len(self._texts)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Text and id of each special token."""
        return dict(self._special_ids)

    def encode(self, text: str, allowed_special: Literal["all"] | Collection[str] = ()) -> list[int]:
        """Text to ids; `[UNK]` for a word that the pieces cannot spell. See `Tokenizer.encode`."""
        cache: dict[str, list[int]] = self._cache
        ids: list[int] = []
        for part, special_id in split_special(replace_surrogates(text), self._special_ids, allowed_special):
            if special_id is not None:
                ids.append(special_id)
                continue
            for word in split_words(part):
                known = cache.get(word)
                if known is None:
                    if len(cache) >= _CACHE_SIZE:
                        cache.clear()
                    known = cache[word] = self._encode_word(word)
                ids += known
        return ids

    def encode_word(self, word: str) -> list[int]:
        """The ids of one word, which is not empty; see the module."""
        return self._encode_word(word)

    def _encode_word(self, word: str) -> list[int]:
        unknown = [self._special_ids[self._unknown]]
        if len(word) > self._longest_word:
            return unknown
        ids: list[int] = []
        start = 0
        while start < len(word):
            prefix = self._continuation if start else ""
            for end in range(min(len(word), start + self._longest), start, -1):
                found = self._ids.get(prefix + word[start:end])
                if found is not None:
                    ids.append(found)
                    start = end
                    break
            else:
                return unknown
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Words with one space between them: the white space of the text is not in the ids."""
        words: list[str] = []
        for index in ids:
            if not 0 <= index < self.vocab_size:
                raise TokenizerError(f"id {index} is outside the vocabulary of {self.vocab_size}")
            text = self._texts[index]
            if words and text.startswith(self._continuation) and index < len(self.vocabulary):
                words[-1] += text.removeprefix(self._continuation)
            else:
                words.append(text)
        return " ".join(words)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """`decode` as UTF-8."""
        return self.decode(ids).encode("utf-8")

    def continue_bytes(self, ids: Iterable[int]) -> bytes:
        """The same after other words: with a space first, unless the first piece continues a word."""
        ids = list(ids)
        if not ids:
            return b""
        continues = ids[0] < len(self.vocabulary) and self._texts[ids[0]].startswith(self._continuation)
        data = self.decode_bytes(ids)
        return data.removeprefix(self._continuation.encode("utf-8")) if continues else b" " + data

    def last_safe_cut(self, text: str, start: int, end: int) -> int:
        """Before white space. See `Tokenizer.last_safe_cut`."""
        match = _SPACE_AHEAD.search(text, start, min(end + 1, len(text)))
        return match.end() if match else -1

    def to_json(self) -> dict[str, Any]:
        """The pieces and the special tokens, and what differs from BERT."""
        given = {"unknown": self._unknown, "continuation": self._continuation, "longest_word": self._longest_word}
        other = {name: value for name, value in given.items() if value != _AS_IN_BERT[name]}
        return {"vocabulary": self.vocabulary, "special_tokens": list(self._special_ids), **other}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> WordPieceTokenizer:
        """Inverse of `to_json`."""
        other = {name: data[name] for name in _AS_IN_BERT if name in data}
        return cls(data["vocabulary"], data["special_tokens"], **other)
