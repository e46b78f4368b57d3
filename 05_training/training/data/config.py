"""Which text a run learns from, and how it becomes ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from groundwork.files import expand_home
from groundwork.user_errors import require


@dataclass(frozen=True)
class DataConfig:
    """What to train on.

    Args:
        corpus: python_docs, tiny_shakespeare, the path of a text, JSONL or Parquet file or of a folder of them, or
            hub:NAME for a data set of the Hugging Face hub. A Parquet file and a data set are always streamed.
        mixture: several corpora and how often to draw from each, as {corpus: weight}, instead of one corpus.
        stream: read one document after another and write token files in shards, for text larger than memory.
        stream_documents: the most documents to take from a stream; null for all.
        validation_fraction: share of the text that is held out.
        dataset_dir: folder for prepared token files; later runs use them again.
        document_masks: keep attention within one document where a window holds several documents.
    """

    corpus: str = "python_docs"
    mixture: dict[str, float] | None = None
    stream: bool = False
    stream_documents: int | None = None
    validation_fraction: float = 0.05
    dataset_dir: str = "datasets"
    document_masks: bool = False

    def __post_init__(self) -> None:
        require(
            all(self.weights),
            'data.corpus and data.mixture must name a corpus, a file or a folder, got ""; "." is this folder',
        )
        expand_home(self, "dataset_dir")
        require(bool(self.dataset_dir), 'data.dataset_dir must name a folder, got ""; "." is this folder')
        require(
            0.0 < self.validation_fraction <= 0.5,
            f"data.validation_fraction must be above 0 and at most 0.5, got {self.validation_fraction}",
        )
        require(
            self.stream_documents is None or self.stream_documents >= 2,
            f"data.stream_documents must be at least 2, one to train on and one held out, got {self.stream_documents}",
        )
        if self.mixture is not None:
            require(len(self.mixture) > 0, "data.mixture must name at least one corpus, as {corpus: weight}")
            for name, weight in self.mixture.items():
                require(weight > 0, f"data.mixture: the weight of {name} must be above 0, got {weight}")

    @property
    def weights(self) -> dict[str, float]:
        """Corpora by name with their weights; one corpus has the weight 1."""
        return self.mixture or {self.corpus: 1.0}


@dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes ids.

    Args:
        kind: bpe (byte-level, trained on the corpus) or character.
        vocab_size: number of ids of the bpe vocabulary; a character vocabulary has as many as the text needs.
    """

    kind: Literal["bpe", "character"] = "bpe"
    vocab_size: int | None = 4096

    def __post_init__(self) -> None:
        if self.kind == "character":
            require(self.vocab_size is None, "tokenizer.vocab_size must be null for a character tokenizer")
        else:
            require(
                self.vocab_size is not None and self.vocab_size >= 257,
                f"tokenizer.vocab_size must be at least 257 (256 bytes + <|endoftext|>), got {self.vocab_size}",
            )
