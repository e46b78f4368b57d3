"""WordPiece with the ids of a vocabulary from elsewhere."""

from __future__ import annotations

from typing import Any

from tokenizer.interface import TokenizerError
from tokenizer.wordpiece_tokenizer import CONTINUATION, UNKNOWN, WordPieceTokenizer


class WordPieces:
    """Turns pieces of text into ids by `WordPieceTokenizer`.

    Args:
        model: the `model` of `tokenizer.json`.

    Raises:
        TokenizerError: the vocabulary lacks the unknown token.
    """

    def __init__(self, model: dict[str, Any]):
        self.vocab: dict[str, int] = model["vocab"]
        unknown = model.get("unk_token", UNKNOWN)
        if unknown not in self.vocab:
            raise TokenizerError(f"its unknown token {unknown!r} is not in the vocabulary")
        pieces = [piece for piece in self.vocab if piece != unknown]
        self._ids = [*(self.vocab[piece] for piece in pieces), self.vocab[unknown]]
        prefix, longest = (
            model.get("continuing_subword_prefix", CONTINUATION),
            model.get("max_input_chars_per_word", 100),
        )
        self._pieces = WordPieceTokenizer(pieces, [unknown], unknown, prefix, longest)

    def encode(self, piece: str) -> list[int]:
        """The ids of a piece that is not empty."""
        return [self._ids[number] for number in self._pieces.encode_word(piece)]
