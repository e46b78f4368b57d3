"""The unigram model of SentencePiece (Kudo, 2018): the most probable way to cut a piece, where each token has a probability.

The search is Viterbi's. For each place of the text it keeps the best way to get there.
"""

from __future__ import annotations

from typing import Any

from tokenizer.interface import TokenizerError
from tokenizer.pipeline.character_bpe import CACHE_SIZE, LONGEST_CACHED, byte_tokens

_UNKNOWN_PENALTY = 10.0  # below the least probable token


class Unigram:
    """Turns pieces of text into ids.

    >>> model = Unigram({"unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -2.0], ["b", -2.0], ["ab", -3.0]]})
    >>> model.encode("aab!")
    [1, 3, 0]

    Args:
        model: the `model` of `tokenizer.json`.

    Raises:
        TokenizerError: a token comes twice, or there is no unknown token.
    """

    def __init__(self, model: dict[str, Any]):
        pieces = [(str(text), float(score)) for text, score in model["vocab"]]
        self.vocab = {text: index for index, (text, _) in enumerate(pieces)}
        unknown = model.get("unk_id")
        if type(unknown) is not int or not 0 <= unknown < len(pieces) or len(self.vocab) != len(pieces):
            raise TokenizerError("its Unigram model has no unknown token, or a token twice")
        self._unknown = unknown
        self._scores = dict(pieces)
        self._longest = max(map(len, self.vocab))
        self._unknown_score = min(score for _, score in pieces) - _UNKNOWN_PENALTY
        self._bytes = byte_tokens(self.vocab) if model.get("byte_fallback") else {}
        self._cache: dict[str, list[int]] = {}

    def encode(self, piece: str) -> list[int]:
        """The ids of a piece that is not empty."""
        found = self._cache.get(piece)
        if found is None:
            found = [index for text in self._cut(piece) for index in self._ids_of(text)]
            if len(piece) <= LONGEST_CACHED:
                if len(self._cache) >= CACHE_SIZE:
                    self._cache.clear()
                self._cache[piece] = found
        return found

    def _cut(self, piece: str) -> list[str]:
        """The most probable tokens; unknown characters in a row are one text."""
        best = [(0.0, 0, False)] + [(-float("inf"), -1, False)] * len(
            piece
        )  # (score, where the last token begins, unknown)
        for start in range(len(piece)):
            here = best[start][0]
            for end in range(start + 1, min(start + self._longest, len(piece)) + 1):
                score = self._scores.get(piece[start:end])
                if score is not None and (best[end][1] == -1 or here + score > best[end][0]):
                    best[end] = (here + score, start, self.vocab[piece[start:end]] == self._unknown)
            if piece[start] not in self._scores:
                score = here + self._unknown_score
                if best[start + 1][1] == -1 or score > best[start + 1][0]:
                    best[start + 1] = (score, start, True)
        texts: list[str] = []
        end, unknown_after = len(piece), False
        while end:
            _, start, unknown = best[end]
            if unknown and unknown_after:
                texts[-1] = piece[start:end] + texts[-1]
            else:
                texts.append(piece[start:end])
            end, unknown_after = start, unknown
        return texts[::-1]

    def _ids_of(self, text: str) -> list[int]:
        if text in self.vocab:
            return [self.vocab[text]]
        spelled = [self._bytes.get(byte) for byte in text.encode("utf-8")] if self._bytes else [None]
        return [self._unknown] if None in spelled else [index for index in spelled if index is not None]
