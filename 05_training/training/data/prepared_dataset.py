"""A prepared data set on disk: what is in it, and whether it is still what was written.

A token file that was cut, reversed or swapped would train another model without a word. So the sizes and the small files are
verified whenever a data set is opened, and all files before a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from groundwork.files import read_json
from groundwork.text_sources import TextError
from tokenizer.interface import Tokenizer
from tokenizer.loading import load_tokenizer
from training.checkpoints.manifest import MANIFEST, sha256_of
from training.data.token_files import DataError, find_token_files


@dataclass(frozen=True)
class DatasetMeta:
    """What `meta.json` holds: sizes, hashes, and how small a compressor makes the same text.

    The two figures of xz are missing for a mixture and for streams.
    """

    corpora: list[str]
    corpus_sha256: str
    tokenizer_sha256: str
    dtype: str
    vocab_size: int
    train_documents: int
    train_tokens: int
    train_bytes: int
    validation_documents: int
    validation_tokens: int
    validation_bytes: int
    xz_bits_per_byte: float | None
    xz_with_train_bits_per_byte: float | None


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared data set on disk."""

    folder: Path
    meta: DatasetMeta
    tokenizer: Tokenizer

    def token_files(self, split: str) -> dict[str, list[Path]]:
        """The token files of each corpus; `split` is train or val."""
        names = self.meta.corpora
        stems = [split] if len(names) == 1 else [f"{split}-{index}" for index in range(len(names))]
        return {name: find_token_files(self.folder, stem) for name, stem in zip(names, stems, strict=True)}

    def verify(self) -> None:
        """Compare every file with its hash.

        Raises:
            DataError: a file is damaged or was changed.
        """
        for name, expected in read_json(self.folder / MANIFEST).items():
            path = self.folder / name
            if not path.is_file() or sha256_of(path) != expected:
                raise _damaged(self.folder, name)


def open_dataset(folder: Path) -> PreparedDataset:
    """Open a prepared data set; its sizes and all but the token files are verified.

    Raises:
        DataError: it is damaged or was changed.
    """
    try:
        manifest = read_json(folder / MANIFEST)
        for name in ("meta.json", "tokenizer.json"):
            if sha256_of(folder / name) != manifest.get(name):
                raise _damaged(folder, name)
        content = read_json(folder / "meta.json")
        content.pop("request")
        meta = DatasetMeta(**content)
        dataset = PreparedDataset(folder, meta, load_tokenizer(folder / "tokenizer.json"))
        for split, tokens in (("train", meta.train_tokens), ("val", meta.validation_tokens)):
            files = [file for files in dataset.token_files(split).values() for file in files]
            if sum(file.stat().st_size for file in files) != tokens * np.dtype(meta.dtype).itemsize:
                raise _damaged(folder, f"{split}.bin")
    except (OSError, KeyError, TypeError, TextError) as error:
        raise DataError(f"{folder} is incomplete: {error}; delete it to prepare it again") from None
    return dataset


def _damaged(folder: Path, name: str) -> DataError:
    return DataError(f"{folder / name} is damaged or was changed: delete {folder} to prepare it again")
