"""What every tokenizer does: text → ids → text.

A tokenizer is saved as one JSON file whose `type` names its class; `tokenizer.loading` reads it again.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import regex
from numpy.typing import NDArray

from groundwork.files import write_atomically
from groundwork.user_errors import require_texts
from tokenizer.model_files import ModelFiles
from tokenizer.streaming import join_safely
from tokenizer.text_frame import TextFrame

END_OF_TEXT = "<|endoftext|>"  # stands before every document of a data set, as in GPT-2


class TokenizerError(ValueError):
    """A text, id or file that a tokenizer cannot use; the message is one line."""


class Tokenizer(ABC):
    """Turns text into ids below `vocab_size` and back.

    Special tokens (`<|endoftext|>`) are ids that no ordinary text produces: `encode` turns their
    text into them only where the caller allows it, so that a user's text cannot forge one.
    """

    type_name: ClassVar[str]
    frame = TextFrame()  # what a `tokenizer.json` puts around every text
    files: ModelFiles = ModelFiles()  # what the files of the model say; none for a tokenizer that was trained here

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""

    @property
    def vocab(self) -> dict[int, bytes]:
        """The bytes that each id stands for, special tokens included.

        Returns:
            A copy, from the smallest id to the largest.
        """
        return {index: self.decode_bytes([index]) for index in range(self.vocab_size)}

    @property
    @abstractmethod
    def special_tokens(self) -> dict[str, int]:
        """Text and id of each special token."""

    @property
    def always_found(self) -> frozenset[str]:
        """Texts of added tokens that are not special: `encode` always turns them into their id."""
        return frozenset()

    @abstractmethod
    def encode(self, text: str, allowed_special: Literal["all"] | Collection[str] = ()) -> list[int]:
        """Text to ids.

        Args:
            text: any string.
            allowed_special: special tokens whose text becomes their id; the others are encoded as
                the ordinary characters they are made of.
        """

    def encode_to_array(self, text: str, allowed_special: Literal["all"] | Collection[str] = ()) -> NDArray[np.uint32]:
        """Like `encode`, but into an array, which takes a tenth of the memory of a list."""
        return np.array(self.encode(text, allowed_special), dtype=np.uint32)

    def encode_batch_to_array(
        self, texts: Iterable[str], allowed_special: Literal["all"] | Collection[str] = ()
    ) -> tuple[NDArray[np.uint32], NDArray[np.intp]]:
        """Encode texts one after the other, each independently of the others.

        Returns:
            The ids of all texts, and for each text the position after its last id.
        """
        require_texts(texts, "texts")
        arrays = [self.encode_to_array(text, allowed_special) for text in texts]
        ends = np.cumsum([len(array) for array in arrays], dtype=np.intp)
        return np.concatenate([np.empty(0, dtype=np.uint32), *arrays]), ends

    def encode_batch(
        self, texts: Iterable[str], allowed_special: Literal["all"] | Collection[str] = ()
    ) -> list[list[int]]:
        """Like `encode_batch_to_array`, but a list of ids for each text."""
        ids, ends = self.encode_batch_to_array(texts, allowed_special)
        return [ids[start:end].tolist() for start, end in pairwise([0, *ends.tolist()])]

    def encode_documents(
        self,
        documents: Iterable[str],
        allowed_special: Literal["all"] | Collection[str] = (),
        begins: Iterable[bool] | None = None,
    ) -> NDArray[np.uint32]:
        """Documents as one stream of ids, with the end-of-text token before each if the vocabulary has one.

        Args:
            documents: texts, each encoded independently of the others.
            allowed_special: as in `encode`.
            begins: for each text, whether it begins a document or continues one; None where each is a whole document.

        Returns:
            `(ids of all documents,)`.
        """
        ids, ends = self.encode_batch_to_array(documents, allowed_special)
        if self.end_of_text_id is None:
            return ids
        starts = np.append(0, ends)[:-1]
        return np.insert(ids, starts if begins is None else starts[np.array(list(begins), bool)], self.end_of_text_id)

    def encode_iterable(
        self, texts: Iterable[str], allowed_special: Literal["all"] | Collection[str] = ()
    ) -> Iterator[int]:
        """The ids of `"".join(texts)`, one by one, in memory that does not grow with the text.

        Args:
            texts: parts of one text in order, such as the lines of an open file.
            allowed_special: as in `encode`; a special token may lie across two parts.
        """
        specials = allowed_names(self.special_tokens, allowed_special)
        for chunk in join_safely(texts, self.last_safe_cut, specials | self.always_found):
            yield from self.encode(chunk, allowed_special)

    def parts(self, text: str, broken: Collection[int] = ()) -> Iterator[tuple[str, int | None]]:
        """The text as it came, cut at all added tokens: (text, None) or (token, with the spaces that it takes, its id).

        Args:
            text: any text.
            broken: places; a special token that has one of them in it or at its end is ordinary text.
        """
        return split_unbroken(text, self.special_tokens, broken)

    def encode_part(self, part: str, begins: bool, broken: bool = False) -> list[int]:
        """The ids of a part between two added tokens.

        Args:
            part: see `parts`.
            begins: whether it begins the text.
            broken: whether no special token is to be found in it.
        """
        return self.encode(part)

    @abstractmethod
    def last_safe_cut(self, text: str, start: int, end: int) -> int:
        """The last position in (start, end] where the two parts of the text give the ids of the whole.

        Special tokens are not considered. The result is -1 where there is no such position.
        """

    @abstractmethod
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes that the ids stand for.

        Raises:
            TokenizerError: an id is not in the vocabulary.
        """

    def continue_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids that stand after others. Only where spaces are not in the tokens is this not `decode_bytes`."""
        return self.decode_bytes(ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text; bytes that are not valid UTF-8 become U+FFFD, the replacement character."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def id_of(self, token: str | None) -> int | None:
        """Id of an added token, by its text; None where there is none."""
        return None if token is None else self.special_tokens.get(token)

    @property
    def end_of_text_id(self) -> int | None:
        """Id of the token between documents; None where the vocabulary has none.

        It is `<|endoftext|>`, or else the begin token that the model's files name, or else their end token.
        """
        names = (END_OF_TEXT, self.files.token("bos_token"), self.files.token("eos_token"))
        return next((index for name in names if (index := self.id_of(name)) is not None), None)

    @property
    def begin_ids(self) -> list[int]:
        """Ids that a text begins with: those that the model's files say, or else `<|endoftext|>`.

        What the post-processor of `tokenizer.json` puts before a text decides, as for `transformers`. `add_bos_token` of
        `tokenizer_config.json` counts where there is none. `<|endoftext|>` begins every document of a data set made here, and of GPT-2's. A model whose files name another
        begin token and do not say that texts begin with it, such as SmolLM2, gets none.
        """
        begin = self.id_of(self.files.token("bos_token"))
        if self.frame != TextFrame():
            return list(self.frame.before)
        if self.files.adds_begin_token is not None:
            return [begin] if self.files.adds_begin_token and begin is not None else []
        if self.files.tokenizer_config and begin != self.id_of(END_OF_TEXT):
            return []
        usual = self.id_of(END_OF_TEXT)
        return [] if usual is None else [usual]

    @property
    def end_ids(self) -> list[int]:
        """Ids that end a text, the first of them the usual one."""
        named = self.id_of(self.files.token("eos_token"))
        ends = [*([] if named is None else [named]), *self.files.generation_ids("eos_token_id")]
        if not ends and self.end_of_text_id is not None:
            ends = [self.end_of_text_id]
        return list(dict.fromkeys(ends))

    @property
    def pad_id(self) -> int | None:
        """Id that fills up a batch; nothing is computed from it."""
        named = self.id_of(self.files.token("pad_token"))
        return next(iter([*([] if named is None else [named]), *self.files.generation_ids("pad_token_id")]), None)

    def with_special_tokens(self, new: Iterable[str]) -> Tokenizer:
        """The same tokenizer with more special tokens, whose ids come after all others."""
        new = list(new)
        data = self.to_json()
        data["special_tokens"] = [*data["special_tokens"], *new]
        if data.get("ids") is not None:  # ids that are not simply in order: go on after the last
            data["ids"] = [*data["ids"], *range(self.vocab_size, self.vocab_size + len(new))]
        extended = type(self).from_json(data)
        extended.frame, extended.files = self.frame, self.files
        return extended

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Everything needed to build it again, in JSON types."""

    @classmethod
    @abstractmethod
    def from_json(cls, data: dict[str, Any]) -> Tokenizer:
        """Inverse of `to_json`."""

    def save(self, path: Path | str) -> None:
        """Write the tokenizer as JSON, and the files of its model beside it. No file is ever half-written."""
        write_atomically(Path(path), self._serialise())
        self.files.write(Path(path).parent)

    def sha256(self) -> str:
        """Hash of the saved form. With it, data made with one tokenizer is never read with another."""
        return hashlib.sha256(self._serialise().encode("utf-8")).hexdigest()

    def _serialise(self) -> str:
        return json.dumps({"type": self.type_name, **self.to_json()}, ensure_ascii=False, indent=0) + "\n"


T = TypeVar("T")


def check_special_tokens(special_tokens: Iterable[T]) -> list[T]:
    """The special tokens as a list.

    Raises:
        TokenizerError: one is empty or comes twice.
    """
    if isinstance(special_tokens, str):
        raise TokenizerError(f"special tokens are a list of texts, got the single text {special_tokens!r}")
    specials = list(special_tokens)
    if len(set(specials)) != len(specials) or "" in specials:
        raise TokenizerError(f"special tokens must be distinct and not empty, got {specials}")
    return specials


def allowed_names(special_ids: Mapping[str, int], allowed: Literal["all"] | Collection[str]) -> set[str]:
    """The texts of the special tokens that are allowed.

    Raises:
        TokenizerError: `allowed` names a token that does not exist.
    """
    if isinstance(allowed, str) and allowed != "all":
        raise TokenizerError(f'allowed special tokens are a list of texts or "all", got the single text {allowed!r}')
    names = set(special_ids) if allowed == "all" else set(allowed)
    if not names <= special_ids.keys():
        unknown = sorted(names - special_ids.keys())
        raise TokenizerError(f"unknown special tokens {unknown}; there are {sorted(special_ids)}")
    return names


def split_special(
    text: str, special_ids: Mapping[str, int], allowed: Literal["all"] | Collection[str]
) -> Iterator[tuple[str, int | None]]:
    """Cut text at the special tokens that are allowed: (ordinary text, None) or (special, its id).

    Raises:
        TokenizerError: `allowed` names a token that does not exist.
    """
    names = allowed_names(special_ids, allowed)
    if not names:
        yield text, None
        return
    for index, piece in enumerate(regex.split(f"({_any_of(names)})", text)):
        if piece:
            yield piece, special_ids[piece] if index % 2 else None


def split_unbroken(
    text: str, special_ids: Mapping[str, int], broken: Collection[int]
) -> Iterator[tuple[str, int | None]]:
    """`split_special` at all special tokens but those that have one of the places `broken` in them or at their end."""
    pattern = regex.compile(_any_of(special_ids))
    done = place = 0
    while special_ids and (match := pattern.search(text, place)):
        start, end = match.span()
        if any(start < cut <= end for cut in broken):
            place = start + 1
            continue
        if done < start:
            yield text[done:start], None
        yield match.group(), special_ids[match.group()]
        done = place = end
    if done < len(text):
        yield text[done:], None


def _any_of(names: Iterable[str]) -> str:
    # Longest first: where two special tokens begin with the same characters, the longer one is found.
    return "|".join(regex.escape(name) for name in sorted(names, key=len, reverse=True))
