"""What every tokenizer does, and how a saved one is found again.

Text → ids → text. A tokenizer is saved as one JSON file whose `type` names its class.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import regex

END_OF_TEXT = "<|endoftext|>"  # stands before every document of a data set, as in GPT-2


class TokenizerError(ValueError):
    """A text, id or file that a tokenizer cannot take, said in one line."""


class Tokenizer(ABC):
    """Turns text into ids below `vocab_size` and back.

    Special tokens (`<|endoftext|>`) are ids that no ordinary text produces: `encode` turns their
    text into them only where the caller allows it, so that a user's text cannot forge one.
    """

    type_name: ClassVar[str]

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""

    @property
    @abstractmethod
    def special_tokens(self) -> dict[str, int]:
        """Text and id of each special token."""

    @abstractmethod
    def encode(self, text: str, allowed_special: Literal["all"] | Collection[str] = ()) -> list[int]:
        """Text to ids.

        Args:
            text: any string.
            allowed_special: special tokens whose text becomes their id; the others are encoded as
                the ordinary characters they are made of.
        """

    @abstractmethod
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes that the ids stand for.

        Raises:
            TokenizerError: an id is not in the vocabulary.
        """

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text; bytes that are no valid UTF-8 become U+FFFD, the replacement character."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    @property
    def end_of_text_id(self) -> int | None:
        """Id of `<|endoftext|>`, or None where the vocabulary has none."""
        return self.special_tokens.get(END_OF_TEXT)

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Everything needed to build it again, in JSON types."""

    @classmethod
    @abstractmethod
    def from_json(cls, data: dict[str, Any]) -> Tokenizer:
        """Inverse of `to_json`."""

    def save(self, path: Path | str) -> None:
        """Write the tokenizer as JSON, under a temporary name first so that no half file is left."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(self._serialise(), encoding="utf-8", newline="\n")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def sha256(self) -> str:
        """Hash of the saved form: data made with one tokenizer is never read with another."""
        return hashlib.sha256(self._serialise().encode("utf-8")).hexdigest()

    def _serialise(self) -> str:
        return json.dumps({"type": self.type_name, **self.to_json()}, ensure_ascii=False, indent=0) + "\n"


def split_special(
    text: str, special_ids: Mapping[str, int], allowed: Literal["all"] | Collection[str]
) -> Iterator[tuple[str, int | None]]:
    """Cut text at the special tokens that are allowed: (ordinary text, None) or (special, its id).

    Raises:
        TokenizerError: `allowed` names a token that does not exist.
    """
    names = set(special_ids) if allowed == "all" else set(allowed)
    if not names <= special_ids.keys():
        unknown = sorted(names - special_ids.keys())
        raise TokenizerError(f"unknown special tokens {unknown}; there are {sorted(special_ids)}")
    if not names:
        yield text, None
        return
    # Longest first, so that of two special tokens that begin alike the longer one is found.
    alternatives = "|".join(regex.escape(name) for name in sorted(names, key=len, reverse=True))
    for index, piece in enumerate(regex.split(f"({alternatives})", text)):
        if piece:
            yield piece, special_ids[piece] if index % 2 else None


def load_tokenizer(path: Path | str) -> Tokenizer:
    """Load whatever tokenizer `save` wrote.

    Raises:
        TokenizerError: the file is missing, damaged or not one of ours.
    """
    from tokenizer.bpe_tokenizer import BPETokenizer
    from tokenizer.character_tokenizer import CharacterTokenizer

    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TokenizerError(f"there is no tokenizer at {path}") from None
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} is not a readable tokenizer file: {error}") from None
    kinds: dict[str, type[Tokenizer]] = {kind.type_name: kind for kind in (BPETokenizer, CharacterTokenizer)}
    kind = kinds.get(data.get("type", "")) if isinstance(data, dict) else None
    if kind is None:
        raise TokenizerError(f'{path} is not a tokenizer of this project: its "type" should be one of {sorted(kinds)}')
    try:
        return kind.from_json(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TokenizerError(f"{path} is damaged: {error}") from None
