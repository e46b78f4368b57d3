"""The simplest tokenizer: one id for each character that occurs in the training text."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, ClassVar, Literal

from groundwork.user_errors import require_texts
from tokenizer.interface import Tokenizer, TokenizerError, check_special_tokens, split_special


class CharacterTokenizer(Tokenizer):
    """Characters in the order of their code points become 0, 1, 2, …

    >>> tokenizer = CharacterTokenizer.train(["hello"])
    >>> tokenizer.encode("hole")
    [1, 3, 2, 0]
    >>> tokenizer.decode([1, 3, 2, 0])
    'hole'

    Args:
        characters: the vocabulary, without repetition.
        special_tokens: texts that get an id of their own, after the characters.
    """

    type_name: ClassVar[str] = "character"

    def __init__(self, characters: Iterable[str], special_tokens: Iterable[str] = ()):
        self.characters = list(characters)
        specials = check_special_tokens(special_tokens)
        self._ids = {character: index for index, character in enumerate(self.characters)}
        if len(self._ids) != len(self.characters) or any(len(character) != 1 for character in self.characters):
            raise TokenizerError("a character vocabulary needs single characters, each once")
        self._special_ids = {text: len(self.characters) + index for index, text in enumerate(specials)}
        self._texts = self.characters + specials

    @classmethod
    def train(cls, documents: Iterable[str], special_tokens: Iterable[str] = ()) -> CharacterTokenizer:
        """Take every character that occurs in the documents.

        Raises:
            TextError: the documents are a single text.
        """
        require_texts(documents)
        return cls(sorted(set().union(*documents)), special_tokens)

    @property
    def vocab_size(self) -> int:
        """Number of characters and special tokens."""
        return len(self._texts)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Text and id of each special token."""
        return dict(self._special_ids)

    def encode(self, text: str, allowed_special: Literal["all"] | Collection[str] = ()) -> list[int]:
        """One id for each character.

        Raises:
            TokenizerError: a character that the vocabulary lacks, or an unknown special token.
        """
        ids: list[int] = []
        for piece, special_id in split_special(text, self._special_ids, allowed_special):
            ids += self._encode_ordinary(piece) if special_id is None else [special_id]
        return ids

    def _encode_ordinary(self, text: str) -> list[int]:
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            character = error.args[0]
            raise TokenizerError(
                f"the character {character!r} (U+{ord(character):04X}) is not among the "
                f"{len(self.characters)} that this tokenizer was trained on"
            ) from None

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The characters as UTF-8."""
        texts = []
        for index in ids:
            if not 0 <= index < self.vocab_size:
                raise TokenizerError(f"id {index} is outside the vocabulary of {self.vocab_size}")
            texts.append(self._texts[index])
        return "".join(texts).encode("utf-8", errors="surrogatepass")

    def last_safe_cut(self, text: str, start: int, end: int) -> int:
        """Anywhere. See `Tokenizer.last_safe_cut`."""
        return min(end, len(text)) if end > start else -1

    def to_json(self) -> dict[str, Any]:
        """The characters as one string, and the special tokens."""
        return {"characters": "".join(self.characters), "special_tokens": list(self._special_ids)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CharacterTokenizer:
        """Inverse of `to_json`."""
        return cls(data["characters"], data["special_tokens"])
