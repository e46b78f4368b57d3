"""Files of text to files of ids, in parallel, in memory that does not grow with the files.

The result is flat: ids one after the other as little-endian unsigned integers of 2 bytes, or of 4 where
the vocabulary has more than 65,536 ids, the format of the prepared data sets of stage 5. Read them by
`np.memmap(path, dtype=...)`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

from groundwork.text_sources import read_documents
from tokenizer.interface import Tokenizer, TokenizerError, allowed_names
from tokenizer.parallel import map_in_order
from tokenizer.streaming import join_safely

CHUNK_LENGTH = 1 << 21  # characters that one process encodes at a time


@dataclass(frozen=True)
class EncodedFiles:
    """What `encode_files` wrote.

    Args:
        paths: the files of ids, in order.
        tokens: ids in all of them.
        text_bytes: bytes of the text, in UTF-8.
        dtype: of the ids, as NumPy writes it: `<u2` or `<u4`.
    """

    paths: list[Path]
    tokens: int
    text_bytes: int
    dtype: str


def id_dtype(vocab_size: int) -> np.dtype:
    """The smallest type that holds every id: little-endian uint16 or uint32."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def encode_files(
    tokenizer: Tokenizer,
    inputs: Sequence[Path | str],
    output: Path | str,
    *,
    allowed_special: Literal["all"] | Collection[str] = (),
    shard_tokens: int | None = None,
    workers: int = 1,
    on_bytes: Callable[[int], None] | None = None,
) -> EncodedFiles:
    """Encode text files, or JSONL files with one document a line, into one file of ids or several.

    Where the tokenizer has an `<|endoftext|>`, it stands before every document.

    Args:
        tokenizer: that encodes.
        inputs: text files in the order wanted.
        output: the file to write, such as `train.bin`. With shards, `train_00000.bin`, `train_00001.bin`, …
        allowed_special: special tokens that the text holds, such as an `<|endoftext|>` between the
            documents of one file.
        shard_tokens: most ids in a file; None: one file.
        workers: processes; see `parallel.map_in_order` for what more than one needs.
        on_bytes: called with the bytes of text as they have been encoded.

    Raises:
        TokenizerError: a file is not UTF-8 or cannot be read, or a text cannot be encoded. No file is
            left half-written.
    """
    if shard_tokens is not None and shard_tokens < 1:
        raise TokenizerError(f"a shard must have room for at least 1 token, got {shard_tokens}")
    dtype = id_dtype(tokenizer.vocab_size)
    specials = allowed_names(tokenizer.special_tokens, allowed_special)
    chunks = _chunks([Path(path) for path in inputs], tokenizer, specials)
    shards = _Shards(Path(output), dtype, shard_tokens)
    text_bytes = 0
    try:
        for ids, chunk_bytes in map_in_order(_ChunkEncoder, (tokenizer, specials), chunks, workers):
            shards.write(ids)
            text_bytes += chunk_bytes
            if on_bytes is not None:
                on_bytes(chunk_bytes)
        return EncodedFiles(shards.finish(), shards.tokens, text_bytes, dtype.str)
    finally:
        shards.remove_unfinished()


Chunk = list[tuple[bool, str]]  # (does a document begin here, text)


def _chunks(paths: list[Path], tokenizer: Tokenizer, specials: Collection[str]) -> Iterator[Chunk]:
    chunk: Chunk = []
    length = 0
    for path in paths:
        for parts in read_documents(path):
            begins = True
            for text in join_safely(parts, tokenizer.last_safe_cut, specials, CHUNK_LENGTH):
                chunk.append((begins, text))
                begins = False
                length += len(text)
                if length >= CHUNK_LENGTH:
                    yield chunk
                    chunk, length = [], 0
    if chunk:
        yield chunk


class _ChunkEncoder:
    """Encodes chunks; each document begins with the end-of-text token, where there is one."""

    def __init__(self, tokenizer: Tokenizer, specials: Collection[str]):
        self._tokenizer, self._specials = tokenizer, specials

    def __call__(self, chunk: Chunk) -> tuple[NDArray[np.unsignedinteger], int]:
        """The ids of a chunk, and its bytes of text."""
        ids, ends = self._tokenizer.encode_batch_to_array((text for _, text in chunk), self._specials)
        end_of_text = self._tokenizer.end_of_text_id
        if end_of_text is not None:
            begins = np.array([begins for begins, _ in chunk])
            ids = np.insert(ids, np.append(0, ends[:-1])[begins], end_of_text)
        return ids.astype(id_dtype(self._tokenizer.vocab_size)), sum(len(text.encode("utf-8")) for _, text in chunk)


class _Shards:
    """Writes ids to files of limited size, under temporary names until all are complete."""

    def __init__(self, output: Path, dtype: np.dtype, shard_tokens: int | None):
        self._output, self._dtype, self._limit = output, dtype, shard_tokens
        self._temporary: list[Path] = []
        self._file: IO[bytes] | None = None
        self._in_file = 0
        self.tokens = 0
        output.parent.mkdir(parents=True, exist_ok=True)

    def write(self, ids: NDArray[np.unsignedinteger]) -> None:
        while len(ids):
            if self._file is None or self._in_file == self._limit:
                self._open_next()
            assert self._file is not None
            part = ids if self._limit is None else ids[: self._limit - self._in_file]
            self._file.write(part.tobytes())
            self._in_file += len(part)
            self.tokens += len(part)
            ids = ids[len(part) :]

    def _open_next(self) -> None:
        if self._file is not None:
            self._file.close()
        path = self._output.with_name(f"{self._output.name}.{len(self._temporary)}.{os.getpid()}.tmp")
        self._temporary.append(path)
        self._file = open(path, "wb")  # noqa: SIM115 (closed by `finish` or `remove_unfinished`)
        self._in_file = 0

    def finish(self) -> list[Path]:
        if self._file is None:
            raise TokenizerError("there is no text in the files: nothing to encode")
        self._file.close()
        paths = []
        for index, temporary in enumerate(self._temporary):
            name = self._output.name if self._limit is None else f"{self._output.stem}_{index:05d}{self._output.suffix}"
            paths.append(self._output.with_name(name))
            os.replace(temporary, paths[-1])
        return paths

    def remove_unfinished(self) -> None:
        if self._file is not None:
            self._file.close()
        for path in self._temporary:
            path.unlink(missing_ok=True)
