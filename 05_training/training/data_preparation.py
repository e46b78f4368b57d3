"""From a corpus to token files: train the tokenizer, encode, write, once.

A prepared data set is a folder: `train.bin` and `val.bin` (flat little-endian ids), `tokenizer.json`
and `meta.json`. Its name holds a hash of everything it was made from, so that a changed corpus,
tokenizer or installation makes a new one and nothing stale is ever read. It is written under a
temporary name and renamed when complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from neural_networks.bits_per_byte import xz_bits_per_byte
from neural_networks.corpora import Corpus, load_corpus
from tokenizer.character_tokenizer import CharacterTokenizer
from tokenizer.interface import END_OF_TEXT, Tokenizer, load_tokenizer
from tokenizer.tokenizer_trainer import train_bpe
from training.config import DataConfig, TokenizerConfig

FORMAT_VERSION = 1  # raise it when the files or the way they are made change


@dataclass(frozen=True)
class DatasetMeta:
    """What `meta.json` holds: sizes, hashes, and what a compressor makes of the same text."""

    corpus: str
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
    xz_bits_per_byte: float
    xz_with_train_bits_per_byte: float


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared data set on disk."""

    folder: Path
    meta: DatasetMeta
    tokenizer: Tokenizer

    @property
    def train_file(self) -> Path:
        """Token ids to train on."""
        return self.folder / "train.bin"

    @property
    def validation_file(self) -> Path:
        """Token ids held out."""
        return self.folder / "val.bin"


def prepare_dataset(data: DataConfig, tokenizer: TokenizerConfig, console: Console) -> PreparedDataset:
    """Make the token files, or find the ones made before.

    Raises:
        CorpusError, TokenizerError: the text or the vocabulary cannot be used.
    """
    request = _describe_request(data, tokenizer)
    key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:10]
    stem = Path(data.corpus).stem or "corpus"
    folder = Path(data.dataset_dir) / f"{stem}-{tokenizer.kind}{tokenizer.vocab_size or ''}-{key}"
    if (folder / "meta.json").exists():
        dataset = _open(folder)
        console.print(f"[dim]Using the token files in {folder}[/dim]")
        return dataset
    with console.status(f"Gathering the corpus {data.corpus} …"):
        corpus = load_corpus(data.corpus, data.validation_fraction, data.dataset_dir)
    documents = len(corpus.train) + len(corpus.validation)
    size = (corpus.train_bytes + corpus.validation_bytes) / 1e6
    console.print(f"Corpus [bold]{data.corpus}[/bold]: {documents:,} documents, {size:.2f} MB")
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True, exist_ok=True)
    try:
        _write(temporary, corpus, tokenizer, request, console)
        shutil.rmtree(folder, ignore_errors=True)  # a folder without meta.json is of no use
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return _open(folder)


def _describe_request(data: DataConfig, tokenizer: TokenizerConfig) -> dict[str, Any]:
    request: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "corpus": data.corpus,
        "validation_fraction": data.validation_fraction,
        "tokenizer": asdict(tokenizer),
    }
    path = Path(data.corpus).expanduser()
    if data.corpus == "python_docs":
        request["installed"] = [platform.python_version(), np.__version__, torch.__version__]
    elif path.exists():  # named by its contents' dates and sizes: an edited file is another corpus
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        request["files"] = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return request


def _open(folder: Path) -> PreparedDataset:
    content = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    content.pop("request")
    return PreparedDataset(folder, DatasetMeta(**content), load_tokenizer(folder / "tokenizer.json"))


def _write(folder: Path, corpus: Corpus, config: TokenizerConfig, request: dict[str, Any], console: Console) -> None:
    # xz takes as long as everything else here. It runs in C without Python's lock, so it runs beside.
    with ThreadPoolExecutor(max_workers=2) as pool:
        alone = pool.submit(xz_bits_per_byte, corpus.validation)
        with_train = pool.submit(xz_bits_per_byte, corpus.validation, corpus.train)
        columns = (
            TextColumn("{task.description:<20}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            tokenizer = _train_tokenizer(corpus, config, progress)
            dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
            encoding = progress.add_task("Encoding", total=len(corpus.train) + len(corpus.validation))
            counts = {}
            for name, documents in (("train", corpus.train), ("val", corpus.validation)):
                with open(folder / f"{name}.bin", "wb") as file:
                    counts[name] = 0
                    for document in documents:
                        ids = [] if tokenizer.end_of_text_id is None else [tokenizer.end_of_text_id]
                        ids += tokenizer.encode(document)
                        file.write(np.array(ids, dtype=dtype).tobytes())
                        counts[name] += len(ids)
                        progress.advance(encoding)
        with console.status("Waiting for the xz baseline …"):
            baselines = alone.result(), with_train.result()
    tokenizer.save(folder / "tokenizer.json")
    meta = DatasetMeta(
        corpus=corpus.name,
        corpus_sha256=corpus.sha256,
        tokenizer_sha256=tokenizer.sha256(),
        dtype=dtype.str,
        vocab_size=tokenizer.vocab_size,
        train_documents=len(corpus.train),
        train_tokens=counts["train"],
        train_bytes=corpus.train_bytes,
        validation_documents=len(corpus.validation),
        validation_tokens=counts["val"],
        validation_bytes=corpus.validation_bytes,
        xz_bits_per_byte=baselines[0],
        xz_with_train_bits_per_byte=baselines[1],
    )
    content = json.dumps({**asdict(meta), "request": request}, indent=2)
    (folder / "meta.json").write_text(content + "\n", encoding="utf-8")


def _train_tokenizer(corpus: Corpus, config: TokenizerConfig, progress: Progress) -> Tokenizer:
    if config.kind == "character":
        # The alphabet is taken from all of the text: a character the model never trained on gets a
        # low probability, where without an id the text could not be measured at all.
        several = len(corpus.train) > 1
        return CharacterTokenizer.train(
            (*corpus.train, *corpus.validation), special_tokens=(END_OF_TEXT,) if several else ()
        )
    assert config.vocab_size is not None  # TokenizerConfig has checked it
    task = progress.add_task("Training BPE", total=None)
    tokenizer = train_bpe(
        corpus.train,
        config.vocab_size,
        on_merge=lambda done, wanted: progress.update(task, completed=done, total=wanted),
    )
    if tokenizer.vocab_size < config.vocab_size:
        progress.console.print(
            f"[yellow]The text has pairs for {tokenizer.vocab_size} ids only, {config.vocab_size} were asked for.[/]"
        )
    return tokenizer
