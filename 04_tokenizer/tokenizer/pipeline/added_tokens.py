"""Added tokens: texts that are found before anything else is done, and become one id.

Special tokens (`<|endoftext|>`) are found only where the caller allows them, so that a user's text cannot forge one.
Others, such as Qwen3's `<think>`, are ordinary text with an id of their own, and are always found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import regex

from tokenizer.interface import TokenizerError, allowed_names, split_special

_WORD = regex.compile(r"\w")
_SPACES_BEFORE, _SPACES_AFTER = regex.compile(r"(?r)\s*"), regex.compile(r"\s*")
_PLAIN = {"special": True, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False}


@dataclass(frozen=True)
class AddedToken:
    """A text with an id of its own.

    Args:
        text: what is found.
        special: found only where the caller allows it.
        lstrip: takes the white space before it.
        rstrip: takes the white space after it.
        single_word: found only where no letter, digit or underscore is next to it.
        normalized: found in the normalized text, not in the text as it came.
    """

    text: str
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False

    @property
    def options(self) -> dict[str, bool]:
        """What differs from a plain special token."""
        return {name: value for name, value in asdict(self).items() if value != _PLAIN.get(name, value)}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> AddedToken:
        """From an entry of `added_tokens` in `tokenizer.json`."""
        return cls(entry["content"], **{name: bool(entry.get(name, False)) for name in _PLAIN})

    def to_json(self, index: int) -> dict[str, Any]:
        """Inverse of `from_json`."""
        return {"id": index, "content": self.text, **{name: getattr(self, name) for name in _PLAIN}}


def read_added_tokens(entries: Iterable[Mapping[str, Any]] | None, vocab: Mapping[str, Any]) -> dict[AddedToken, int]:
    """The `added_tokens` of a `tokenizer.json`, with their ids.

    `tokenizers` takes the id that a text has in the vocabulary, or else the next one that is free, and only warns where the
    file says another. Which of the two the model was trained with, no reader can know.

    Args:
        entries: as they are in the file.
        vocab: the ids of the model's own tokens.

    Raises:
        TokenizerError: an id is not a whole number of 32 bits, or not the one that `tokenizers` takes.
    """
    for text, index in vocab.items():
        check_id(text, index)
    added: dict[AddedToken, int] = {}
    free = len(vocab)
    for entry in entries or ():
        token, index = AddedToken.from_json(entry), check_id(entry["content"], entry["id"])
        if vocab.get(token.text, index) != index:
            raise TokenizerError(
                f"the added token {token.text!r} has the id {index}, and {vocab[token.text]} in the vocabulary"
            )
        if token.text not in vocab and index != free:
            raise TokenizerError(
                f"the added token {token.text!r} has the id {index}, and the next that is free is {free}"
            )
        free = max(free, index + 1) if index >= len(vocab) else free
        if token in added:
            raise TokenizerError(f"the added token {token.text!r} is listed twice")
        added[token] = index
    return added


def check_id(text: str, index: Any) -> int:
    """The id of a token.

    Raises:
        TokenizerError: it is not a whole number of 32 bits.
    """
    if type(index) is not int or not 0 <= index < 1 << 32:
        raise TokenizerError(f"the token {text!r} has the id {index!r}; an id is a whole number from 0 to 2³² - 1")
    return index


class AddedTokens:
    """Finds added tokens.

    >>> tokens = AddedTokens({AddedToken("<|end|>"): 7, AddedToken("<think>", special=False): 8})
    >>> list(tokens.split("a<think>b<|end|>"))
    [('a', None), ('<think>', 8), ('b<|end|>', None)]

    Args:
        ids: the id of each.
        normalize: what is done to the text between those that are found in it as it came.

    Raises:
        TokenizerError: a text is empty, comes twice, or is removed by the normalization that it is found after.
    """

    def __init__(self, ids: Mapping[AddedToken, int], normalize: Callable[[str], str] = str):
        self.ids = {token.text: index for token, index in ids.items()}
        if len(self.ids) != len(ids) or "" in self.ids:
            raise TokenizerError(f"added tokens must be distinct and not empty, got {[token.text for token in ids]}")
        self.tokens = {token.text: token for token in ids}
        self.special = {token.text: index for token, index in ids.items() if token.special}
        self._normalize = normalize
        self._plain = not any(token.options for token in ids)
        # Whether the text around a token says if it is found, and how much of it.
        self.look_around = any(token.options.keys() - {"special"} for token in ids)
        raw = {token.text: token for token in ids if not token.normalized}
        after = {normalize(token.text): token for token in ids if token.normalized}
        if "" in after:
            raise TokenizerError(
                f"the added token {after[''].text!r} is removed by the normalizer: it could not be found"
            )
        self._raw, self._after = _Finder(raw), _Finder(after)

    def parts(self, text: str, broken: Collection[int] = ()) -> Iterator[tuple[str, int | None]]:
        """See `Tokenizer.parts`."""
        for part, token in self._raw.find(text, self.special.keys(), broken):
            yield part, None if token is None else self.ids[token.text]

    def split(self, text: str, allowed: Literal["all"] | Collection[str] = ()) -> Iterator[tuple[str, int | None]]:
        """Cut text at the added tokens: (ordinary text, normalized; None), or (token, its id).

        Args:
            text: any text.
            allowed: special tokens that are found; the others are ordinary text.

        Raises:
            TokenizerError: `allowed` names a token that does not exist.
        """
        if self._plain:
            for part, index in split_special(text, self.special, allowed):
                yield (self._normalize(part) if index is None else part), index
            return
        names = allowed_names(self.special, allowed)
        for part, token in self._raw.find(text, names):
            if token is not None:
                yield part, self.ids[token.text]
                continue
            for piece, found in self._after.find(self._normalize(part), names):
                yield piece, None if found is None else self.ids[found.text]


class _Finder:
    """Finds the texts of tokens from left to right, the longest where several begin at one place."""

    def __init__(self, tokens: Mapping[str, AddedToken]):
        self._tokens = dict(tokens)
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def find(
        self, text: str, allowed: Collection[str], broken: Collection[int] = ()
    ) -> Iterator[tuple[str, AddedToken | None]]:
        done = place = 0
        while match := self._pattern.search(text, place):
            token = self._tokens[match.group()]
            start, end = match.span()
            if token.special and any(start < cut <= end for cut in broken):
                place = start + 1
                continue
            place = end
            if token.special and token.text not in allowed:
                continue
            if token.single_word and (_WORD.match(text, max(start - 1, 0), start) or _WORD.match(text, end)):
                continue
            if token.lstrip and done < start and (spaces := _SPACES_BEFORE.match(text, done, start)):
                start -= len(spaces.group())
            if token.rstrip and (spaces := _SPACES_AFTER.match(text, end)):
                end = spaces.end()
            if done < start:
                yield text[done:start], None
            yield text[start:end], token
            done = end
        if done < len(text):
            yield text[done:], None
