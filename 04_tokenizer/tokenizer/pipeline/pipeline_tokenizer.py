"""A tokenizer as `tokenizer.json` describes it, step by step: normalize, cut, look up, and the way back.

`huggingface_files` reads most byte-level files into a `BPETokenizer`, which is faster. All others come here: Llama 2,
Mistral, Gemma, RoBERTa, BERT, T5.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, ClassVar, Literal, Protocol

from tokenizer.interface import Tokenizer, TokenizerError
from tokenizer.patterns import replace_surrogates
from tokenizer.pipeline.added_tokens import AddedToken, AddedTokens, read_added_tokens
from tokenizer.pipeline.character_bpe import CharacterBPE
from tokenizer.pipeline.decoders import TokenDecoder
from tokenizer.pipeline.normalizers import build_normalizer
from tokenizer.pipeline.post_processor import read_frame
from tokenizer.pipeline.pre_tokenizers import PreTokenizers, flatten
from tokenizer.pipeline.unigram import Unigram
from tokenizer.pipeline.word_pieces import WordPieces


class PieceModel(Protocol):
    """Turns a piece of text into ids."""

    vocab: dict[str, int]

    def encode(self, piece: str) -> list[int]:
        """The ids of a piece that is not empty."""
        ...


MODELS: dict[str, Callable[[dict[str, Any]], PieceModel]] = {
    "BPE": CharacterBPE,
    "WordPiece": WordPieces,
    "Unigram": Unigram,
}


class PipelineTokenizer(Tokenizer):
    """Encodes and decodes as `tokenizers` does with the same file.

    >>> model = {"type": "WordPiece", "vocab": {"[UNK]": 0, "low": 1, "##er": 2}}
    >>> tokenizer = PipelineTokenizer({"model": model, "pre_tokenizer": {"type": "Whitespace"}})
    >>> tokenizer.encode("lower low high")
    [1, 2, 1, 0]

    Args:
        content: of a `tokenizer.json`.

    Raises:
        TokenizerError: a step is not supported, or two parts contradict each other.
    """

    type_name: ClassVar[str] = "pipeline"

    def __init__(self, content: dict[str, Any]):
        self.content = {name: value for name, value in content.items() if name != "type"}
        model = content["model"]
        kind = model.get("type", "BPE")
        if kind not in MODELS:
            raise TokenizerError(f"its model {kind} is not supported; those that are: {', '.join(MODELS)}")
        if content.get("truncation") or content.get("padding"):
            self.content |= {"truncation": None, "padding": None}
        vocab = {text: index for index, (text, _) in enumerate(model["vocab"])} if kind == "Unigram" else model["vocab"]
        added = read_added_tokens(content.get("added_tokens"), vocab)
        self._model = MODELS[kind](model)
        self.added_tokens = AddedTokens(added, build_normalizer(content.get("normalizer")))
        self._pre_tokenizers = PreTokenizers(flatten(content.get("pre_tokenizer")))
        self._decoder = TokenDecoder(content.get("decoder"))
        self.frame = read_frame(content.get("post_processor"))
        self._text_of_id = {index: text for text, index in (self._model.vocab | self.added_tokens.ids).items()}
        if len(self._text_of_id) != len(self._model.vocab.keys() | self.added_tokens.ids.keys()):
            raise TokenizerError("two tokens of the vocabulary have the same id")

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self._text_of_id) + 1

    @property
    def vocab(self) -> dict[int, bytes]:
        """The bytes of each id where it does not begin a text. See `Tokenizer.vocab`."""
        return {index: self._decoder.decode(text, False) for index, text in sorted(self._text_of_id.items())}

    @property
    def special_tokens(self) -> dict[str, int]:
        """Text and id of each special token."""
        return dict(self.added_tokens.special)

    @property
    def always_found(self) -> frozenset[str]:
        """See `Tokenizer.always_found`."""
        return frozenset(self.added_tokens.ids.keys() - self.added_tokens.special.keys())

    def id_of(self, token: str | None) -> int | None:
        """See `Tokenizer.id_of`; ordinary tokens have one as well."""
        return None if token is None else self.added_tokens.ids.get(token, self._model.vocab.get(token))

    def encode(self, text: str, allowed_special: Literal["all"] | Collection[str] = ()) -> list[int]:
        """Text to ids. See `Tokenizer.encode`."""
        return self._encode(text, allowed_special, True)

    def encode_part(self, part: str, begins: bool, broken: bool = False) -> list[int]:
        """See `Tokenizer.encode_part`."""
        return self._encode(part, () if broken else "all", begins)

    def parts(self, text: str, broken: Collection[int] = ()) -> Iterator[tuple[str, int | None]]:
        """See `Tokenizer.parts`."""
        return self.added_tokens.parts(text, broken)

    def _encode(self, text: str, allowed_special: Literal["all"] | Collection[str], begins: bool) -> list[int]:
        ids: list[int] = []
        encode = self._model.encode
        for part, index in self.added_tokens.split(replace_surrogates(text), allowed_special):
            if index is not None:
                ids.append(index)
            else:
                for piece in self._pre_tokenizers.cut(part, begins):
                    ids += encode(piece)
            begins = False
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of a text. See `Tokenizer.decode_bytes`."""
        ids = list(ids)
        return self._decode(ids[:1], True) + self._decode(ids[1:], False)

    def continue_bytes(self, ids: Iterable[int]) -> bytes:
        """See `Tokenizer.continue_bytes`."""
        return self._decode(ids, False)

    def _decode(self, ids: Iterable[int], first: bool) -> bytes:
        try:
            return b"".join(self._decoder.decode(self._text_of_id[index], first) for index in ids)
        except KeyError as error:
            raise TokenizerError(f"id {error.args[0]} is outside the vocabulary of {self.vocab_size}") from None

    def last_safe_cut(self, text: str, start: int, end: int) -> int:
        """None: what a part of a text becomes may depend on its place. See `Tokenizer.last_safe_cut`."""
        return -1

    def with_special_tokens(self, new: Iterable[str]) -> PipelineTokenizer:
        """See `Tokenizer.with_special_tokens`."""
        entries = [AddedToken(text).to_json(index) for index, text in enumerate(new, start=self.vocab_size)]
        added = [*(self.content.get("added_tokens") or ()), *entries]
        extended = PipelineTokenizer({**self.content, "added_tokens": added})
        extended.files = self.files
        return extended

    def to_json(self) -> dict[str, Any]:
        """The content of the `tokenizer.json`."""
        return self.content

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PipelineTokenizer:
        """Inverse of `to_json`."""
        return cls(data)

    def __reduce__(
        self,
    ) -> tuple[Callable[[dict[str, Any]], PipelineTokenizer], tuple[dict[str, Any]], dict[str, Any]]:
        # For other processes: what defines the tokenizer, without its caches.
        return PipelineTokenizer.from_json, (self.content,), {"files": self.files}
