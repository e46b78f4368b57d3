"""The simplest tokenizer: one id a character, from the characters that the training text has."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, ClassVar, Literal

from tokenizer.interface import Tokenizer, TokenizerError


class CharacterTokenizer(Tokenizer):
    """Characters in the order of their code points become 0, 1, 2, …

    >>> tokenizer = CharacterTokenizer.train(["hello"])
    >>> tokenizer.encode("hole")
    [1, 3, 2, 0]
    >>> tokenizer.decode([1, 3, 2, 0])
    'hole'

    Args:
        characters: the vocabulary, without repetition.
    """

    type_name: ClassVar[str] = "character"

    def __init__(self, characters: Iterable[str]):
        self.characters = list(characters)
        self._ids = {character: index for index, character in enumerate(self.characters)}
        if len(self._ids) != len(self.characters) or any(len(character) != 1 for character in self.characters):
            raise TokenizerError("a character vocabulary needs single characters, each once")

    @classmethod
    def train(cls, documents: Iterable[str]) -> CharacterTokenizer:
        """Take every character that occurs in the documents."""
        return cls(sorted(set().union(*documents)))

    @property
    def vocab_size(self) -> int:
        """Number of characters."""
        return len(self.characters)

    @property
    def special_tokens(self) -> dict[str, int]:
        """None: every id is a character."""
        return {}

    def encode(self, text: str, allowed_special: Literal["all"] | Collection[str] = ()) -> list[int]:
        """One id a character.

        Raises:
            TokenizerError: a character that the vocabulary lacks.
        """
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            character = error.args[0]
            raise TokenizerError(
                f"the character {character!r} (U+{ord(character):04X}) is not among the "
                f"{self.vocab_size} that this tokenizer was trained on"
            ) from None

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The characters as UTF-8."""
        characters = []
        for index in ids:
            if not 0 <= index < self.vocab_size:
                raise TokenizerError(f"id {index} is outside the vocabulary of {self.vocab_size}")
            characters.append(self.characters[index])
        return "".join(characters).encode("utf-8", errors="surrogatepass")

    def to_json(self) -> dict[str, Any]:
        """The characters as one string."""
        return {"characters": "".join(self.characters)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CharacterTokenizer:
        """Inverse of `to_json`."""
        return cls(data["characters"])
