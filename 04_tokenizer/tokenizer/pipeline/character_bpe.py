"""BPE over characters, as SentencePiece has it: Llama 1 and 2, Mistral, Gemma, Phi-3.

The merging is that of byte-level BPE (`merging.Merger`). What differs is where it starts: from the characters of a piece.
A character that the vocabulary lacks becomes its bytes, written `<0xE2>`, or the unknown token.

Such a tokenizer often has no pre-tokenizer, so that a whole text is one piece. If no merge joins a word to the sign for
a space after it, the text is cut there all the same, which changes no id, and words are remembered.
"""

from __future__ import annotations

from typing import Any

import regex

from tokenizer.interface import TokenizerError
from tokenizer.merging import Merger

CACHE_SIZE = 1 << 18
LONGEST_CACHED = 64  # characters
_SIGNS = ("▁", " ", "Ġ")  # for a space


class CharacterBPE:
    """Turns pieces of text into ids.

    >>> vocab = {"h": 0, "i": 1, "hi": 2, "<unk>": 3}
    >>> model = CharacterBPE({"vocab": vocab, "merges": ["h i"], "unk_token": "<unk>"})
    >>> model.encode("hi!")
    [2, 3]

    Args:
        model: the `model` of `tokenizer.json`.

    Raises:
        TokenizerError: a merge uses a token that is not in the vocabulary, or an option is not supported.
    """

    def __init__(self, model: dict[str, Any]):
        for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(option):
                raise TokenizerError(f"its BPE has {option} {model[option]!r}, which is not supported")
        self.vocab: dict[str, int] = model["vocab"]
        unknown = model.get("unk_token")
        if unknown is not None and unknown not in self.vocab:
            raise TokenizerError(f"its unknown token {unknown!r} is not in the vocabulary")
        self._unknown = None if unknown is None else self.vocab[unknown]
        self._fuse_unknown, self._ignore_merges = bool(model.get("fuse_unk")), bool(model.get("ignore_merges"))
        self._bytes = byte_tokens(self.vocab) if model.get("byte_fallback") else {}
        pairs = [_pair(merge) for merge in model["merges"]]
        for left, right in pairs:
            if left not in self.vocab or right not in self.vocab or left + right not in self.vocab:
                raise TokenizerError(f"its merge of {left!r} and {right!r} is not in the vocabulary")
        numbered = [(self.vocab[left], self.vocab[right]) for left, right in pairs]
        if len(set(numbered)) != len(numbered):
            raise TokenizerError("a merge is listed twice")
        self._merger = Merger(numbered, [self.vocab[left + right] for left, right in pairs])
        sign = next((sign for sign in _SIGNS if sign in self.vocab), None)
        can_cut = sign is not None and not any(left[-1] != sign and right[0] == sign for left, right in pairs)
        self._words = regex.compile(f"{sign}+[^{sign}]*|[^{sign}]+") if can_cut else None
        self._cache: dict[str, list[int]] = {}

    def encode(self, piece: str) -> list[int]:
        """The ids of a piece that is not empty."""
        if self._ignore_merges and piece in self.vocab:
            return [self.vocab[piece]]
        if self._words is None:
            return self._encode_word(piece)
        ids: list[int] = []
        known = self._cache.get
        for word in self._words.findall(piece):
            ids += known(word) or self._encode_word(word)
        return ids

    def _encode_word(self, word: str) -> list[int]:
        found = self._cache.get(word)
        if found is None:
            found = self._merger.merge(self._spell(word))
            if len(word) <= LONGEST_CACHED:
                if len(self._cache) >= CACHE_SIZE:
                    self._cache.clear()
                self._cache[word] = found
        return found

    def _spell(self, word: str) -> list[int]:
        """The tokens that the merging starts from."""
        tokens: list[int] = []
        unknown = 0  # how many unknown tokens are still to be written
        for character in word:
            token = self.vocab.get(character)
            if token is not None:
                tokens += [self._unknown] * unknown  # type: ignore[list-item]
                unknown = 0
                tokens.append(token)
                continue
            spelled = [self._bytes.get(byte) for byte in character.encode("utf-8")] if self._bytes else [None]
            if None not in spelled:
                tokens += spelled  # type: ignore[arg-type]  # and what is unknown before it comes after it, as there
            elif self._unknown is not None:
                if unknown and not self._fuse_unknown:
                    tokens.append(self._unknown)
                unknown = 1
        return [*tokens, *([self._unknown] * unknown)]  # type: ignore[list-item]


def byte_tokens(vocab: dict[str, int]) -> dict[int, int]:
    """The id of each byte's own token, such as `<0xE2>`, where the vocabulary has one."""
    names = {byte: f"<0x{byte:02X}>" for byte in range(256)}
    return {byte: vocab[name] for byte, name in names.items() if name in vocab}


def _pair(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right
