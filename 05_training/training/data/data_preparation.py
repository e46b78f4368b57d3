"""From a corpus to token files: train the tokenizer, encode, write, once.

A prepared data set is a folder: `train.bin` and `val.bin` (flat little-endian ids), `tokenizer.json`, `meta.json`,
and `manifest.json` with the hashes of these files. In a mixture, each corpus has its own files, `train-0.bin`, `train-1.bin`, …, and all share one
tokenizer. A streamed corpus is written in shards, `train_00000.bin`, …. The folder's name holds a hash of everything
that the data set was made from. So a changed corpus, tokenizer or installation makes a new folder, and nothing
outdated is ever read. The folder is written under a temporary name and renamed when it is complete. Whoever finds it
later compares it with its hashes (`prepared_dataset`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from groundwork.locks import ProcessLock
from groundwork.text_sources import find_text_files
from neural_networks.corpora import load_corpus
from neural_networks.corpus import CorpusError
from tokenizer.character_tokenizer import CharacterTokenizer
from tokenizer.interface import END_OF_TEXT, Tokenizer
from tokenizer.shard_writer import ShardWriter, id_dtype
from tokenizer.tokenizer_trainer import train_bpe
from training.checkpoints.manifest import MANIFEST, force_to_disk, write_manifest
from training.data.config import DataConfig, TokenizerConfig
from training.data.document_sources import DocumentSource, LoadedSource, StreamedSource, never_trained_on
from training.data.document_stream import HUB
from training.data.prepared_dataset import DatasetMeta, PreparedDataset, open_dataset

FORMAT_VERSION = 3  # raise it when the files or the way they are made change
BATCH_CHARACTERS = 1 << 20  # encoded at a time
ABANDONED = re.compile(r"\.?(?P<name>.+-[0-9a-f]{10})\.(\d+\.tmp|lock)")  # a folder half-made, or its lock
SHARD_TOKENS = 1 << 27  # of a streamed corpus: 256 MiB of two-byte ids


def prepare_dataset(data: DataConfig, tokenizer: TokenizerConfig, console: Console) -> PreparedDataset:
    """Make the token files, or find the ones made before. If another process is making them, wait for it.

    Raises:
        CorpusError, TokenizerError: the text or the vocabulary cannot be used.
        DataError: the files made before are damaged or were changed.
    """
    request = _describe_request(data, tokenizer)
    key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:10]
    stem = "+".join(Path(name.removeprefix(HUB)).stem or "corpus" for name in data.weights)[:80]
    folder = Path(data.dataset_dir) / f"{stem}-{tokenizer.kind}{tokenizer.vocab_size or ''}-{key}"
    if not (folder / MANIFEST).exists():
        with _alone(folder, console):
            if not (folder / MANIFEST).exists():  # nobody made it while this process waited
                _prepare(folder, data, tokenizer, request, console)
                return open_dataset(folder)
    dataset = open_dataset(folder)
    with console.status(f"Verifying the token files in {folder} …"):
        dataset.verify()
    console.print(f"[dim]Using the token files in {folder}[/dim]")
    return dataset


@contextlib.contextmanager
def _alone(folder: Path, console: Console) -> Iterator[None]:
    """Inside this context, no other process prepares this data set; what killed ones left is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock_of(folder)
    if not lock.acquire():
        with console.status(f"Waiting for another {lock.holder() or 'process'}, which prepares {folder} …"):
            lock.acquire(wait=True)
    try:
        if lock.supported:  # otherwise it cannot be known what is abandoned
            _remove_abandoned(folder)
        yield
    finally:
        lock.release()


def _remove_abandoned(own: Path) -> None:
    """Remove what killed processes left of this data set, whose lock this process holds, and of others."""
    for left in own.parent.iterdir():
        if (match := ABANDONED.fullmatch(left.name)) is None:
            continue
        folder = own.with_name(match["name"])
        lock = _lock_of(folder)
        with contextlib.suppress(OSError):  # somebody else's
            if folder == own or lock.acquire():
                shutil.rmtree(left, ignore_errors=True)
                lock.release()


def _lock_of(folder: Path) -> ProcessLock:
    return ProcessLock(folder.with_name(f".{folder.name}.lock"))


def _prepare(
    folder: Path, data: DataConfig, tokenizer: TokenizerConfig, request: dict[str, Any], console: Console
) -> None:
    sources = never_trained_on([_open_source(name, data, console) for name in data.weights])
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        _write(temporary, sources, tokenizer, request, console)
        write_manifest(temporary)
        shutil.rmtree(folder, ignore_errors=True)  # without a manifest it is of no use
        os.replace(temporary, folder)
        force_to_disk(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _open_source(name: str, data: DataConfig, console: Console) -> DocumentSource:
    if data.stream or name.startswith(HUB) or name.lower().endswith(".parquet"):
        console.print(f"Corpus [bold]{name}[/bold]: read one document after another")
        return StreamedSource(name, data.validation_fraction, data.stream_documents)
    with console.status(f"Gathering the corpus {name} …"):
        corpus = load_corpus(name, data.validation_fraction, data.dataset_dir)
    documents = len(corpus.train) + len(corpus.validation)
    size = (corpus.train_bytes + corpus.validation_bytes) / 1e6
    console.print(f"Corpus [bold]{name}[/bold]: {documents:,} documents, {size:.2f} MB")
    return LoadedSource(corpus)


def _describe_request(data: DataConfig, tokenizer: TokenizerConfig) -> dict[str, Any]:
    request: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "corpora": list(data.weights),
        "stream": [data.stream, data.stream_documents],
        "validation_fraction": data.validation_fraction,
        "tokenizer": asdict(tokenizer),
    }
    for name in data.weights:
        path = Path(name).expanduser()
        if name == "python_docs":
            request["installed"] = [platform.python_version(), np.__version__, torch.__version__]
        elif path.exists():  # named by its contents' dates and sizes: an edited file is another corpus
            files = find_text_files(path)
            described = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
            request.setdefault("files", []).extend(described)
    return request


def _write(
    folder: Path, sources: list[DocumentSource], config: TokenizerConfig, request: dict[str, Any], console: Console
) -> None:
    # xz takes as long as everything else here. It runs in C without Python's lock, so it runs in parallel.
    with ThreadPoolExecutor(max_workers=1) as pool:
        baselines = pool.submit(sources[0].baselines) if len(sources) == 1 else None
        columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            tokenizer = _train_tokenizer(sources, config, progress)
            dtype = id_dtype(tokenizer.vocab_size)
            counts = {"train": _Count(), "val": _Count()}
            for index, source in enumerate(sources):
                suffix = "" if len(sources) == 1 else f"-{index}"
                limit = SHARD_TOKENS if isinstance(source, StreamedSource) else None
                task = progress.add_task("Encoding", total=None)
                with (
                    ShardWriter(folder / f"train{suffix}.bin", dtype, limit) as train,
                    ShardWriter(folder / f"val{suffix}.bin", dtype, limit) as held_out,
                ):
                    for split, documents in _batches_by_split(source):
                        ids = tokenizer.encode_documents(documents)
                        (train if split == "train" else held_out).write(ids)
                        counts[split].add(documents, len(ids))
                        progress.advance(task, len(documents))
        for split, count in counts.items():
            if not count.tokens:
                what = "to train on" if split == "train" else "held out: raise data.validation_fraction or take more"
                raise CorpusError(f"the corpus {', '.join(s.name for s in sources)} has no document {what}")
        with console.status("Waiting for the xz baseline …"):
            xz = baselines.result() if baselines is not None else None
    tokenizer.save(folder / "tokenizer.json")
    hashes = [source.sha256() for source in sources]
    meta = DatasetMeta(
        corpora=[source.name for source in sources],
        corpus_sha256=hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest(),
        tokenizer_sha256=tokenizer.sha256(),
        dtype=dtype.str,
        vocab_size=tokenizer.vocab_size,
        train_documents=counts["train"].documents,
        train_tokens=counts["train"].tokens,
        train_bytes=counts["train"].bytes,
        validation_documents=counts["val"].documents,
        validation_tokens=counts["val"].tokens,
        validation_bytes=counts["val"].bytes,
        xz_bits_per_byte=xz[0] if xz else None,
        xz_with_train_bits_per_byte=xz[1] if xz else None,
    )
    content = json.dumps({**asdict(meta), "request": request}, indent=2)
    (folder / "meta.json").write_text(content + "\n", encoding="utf-8")


@dataclass
class _Count:
    documents: int = 0
    tokens: int = 0
    bytes: int = 0

    def add(self, documents: list[str], tokens: int) -> None:
        self.documents += len(documents)
        self.tokens += tokens
        self.bytes += sum(len(document.encode("utf-8")) for document in documents)


def _batches_by_split(source: DocumentSource) -> Iterator[tuple[str, list[str]]]:
    """Documents of one split at a time, in their order, about `BATCH_CHARACTERS` together."""
    waiting: dict[str, list[str]] = {"train": [], "val": []}
    sizes = {"train": 0, "val": 0}
    for document, held_out in source.documents():
        split = "val" if held_out else "train"
        waiting[split].append(document)
        sizes[split] += len(document)
        if sizes[split] >= BATCH_CHARACTERS:
            yield split, waiting[split]
            waiting[split], sizes[split] = [], 0
    for split, documents in waiting.items():
        if documents:
            yield split, documents


def _train_tokenizer(sources: list[DocumentSource], config: TokenizerConfig, progress: Progress) -> Tokenizer:
    if config.kind == "character":
        # The alphabet is taken from all of the text. A character that the model never trained on gets a low
        # probability; without an id, the text could not be measured at all.
        documents = [document for source in sources for document, _ in source.documents()]
        several = sum(not held_out for source in sources for _, held_out in source.documents()) > 1
        return CharacterTokenizer.train(documents, special_tokens=(END_OF_TEXT,) if several else ())
    assert config.vocab_size is not None  # TokenizerConfig has checked it
    task = progress.add_task("Training BPE", total=None)
    tokenizer = train_bpe(
        chain.from_iterable(source.tokenizer_documents() for source in sources),
        config.vocab_size,
        on_merge=lambda done, wanted: progress.update(task, completed=done, total=wanted),
    )
    if tokenizer.vocab_size < config.vocab_size:
        progress.console.print(
            f"[yellow]The text has pairs for {tokenizer.vocab_size} ids only, {config.vocab_size} were asked for.[/]"
        )
    return tokenizer
