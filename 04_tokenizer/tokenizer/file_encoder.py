"""Encode files of text into files of ids, in parallel and in memory that does not grow with the files.

The result is flat: ids one after the other as little-endian unsigned integers of 2 bytes, or of 4 where
the vocabulary has more than 65,536 ids.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from groundwork.text_sources import read_documents
from groundwork.user_errors import require_texts
from tokenizer.interface import Tokenizer, TokenizerError, allowed_names
from tokenizer.parallel import map_in_order
from tokenizer.shard_writer import ShardWriter, id_dtype
from tokenizer.streaming import join_safely

CHUNK_LENGTH = 1 << 21  # characters that one process encodes at a time


@dataclass(frozen=True)
class EncodedFiles:
    """What `encode_files` wrote.

    Args:
        paths: the files of ids, in order.
        tokens: number of ids in all of them.
        text_bytes: bytes of the text, in UTF-8.
        dtype: of the ids, as NumPy writes it: `<u2` or `<u4`.
    """

    paths: list[Path]
    tokens: int
    text_bytes: int
    dtype: str


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
        tokenizer: encodes the text.
        inputs: text files in the order wanted.
        output: the file to write, such as `train.bin`. With shards, `train_00000.bin`, `train_00001.bin`, …
        allowed_special: special tokens that the text holds, such as an `<|endoftext|>` between the
            documents of one file.
        shard_tokens: the most ids in a file; None for one file.
        workers: processes; see `parallel.map_in_order` for what more than one needs.
        on_bytes: called with the bytes of text in each chunk that has been encoded.

    Raises:
        TextError: a file is not UTF-8 or cannot be read.
        TokenizerError: a text cannot be encoded, or there is none. No file is left half-written.
    """
    require_texts(inputs, "inputs")
    if shard_tokens is not None and shard_tokens < 1:
        raise TokenizerError(f"a shard must have room for at least 1 token, got {shard_tokens}")
    dtype = id_dtype(tokenizer.vocab_size)
    specials = allowed_names(tokenizer.special_tokens, allowed_special)
    chunks = _chunks([Path(path) for path in inputs], tokenizer, specials)
    text_bytes = 0
    with ShardWriter(Path(output), dtype, shard_tokens) as shards:
        for ids, chunk_bytes in map_in_order(_ChunkEncoder, (tokenizer, specials), chunks, workers):
            shards.write(ids)
            text_bytes += chunk_bytes
            if on_bytes is not None:
                on_bytes(chunk_bytes)
        if not shards.tokens:
            raise TokenizerError("there is no text in the files: nothing to encode")
    return EncodedFiles(shards.paths, shards.tokens, text_bytes, dtype.str)


Chunk = list[tuple[bool, str]]  # (does a document begin here, text)


def _chunks(paths: list[Path], tokenizer: Tokenizer, specials: Collection[str]) -> Iterator[Chunk]:
    chunk: Chunk = []
    length = 0
    for path in paths:
        for parts in read_documents(path):
            begins = True
            for text in join_safely(parts, tokenizer.last_safe_cut, {*specials, *tokenizer.always_found}, CHUNK_LENGTH):
                chunk.append((begins, text))
                begins = False
                length += len(text)
                if length >= CHUNK_LENGTH:
                    yield chunk
                    chunk, length = [], 0
    if chunk:
        yield chunk


class _ChunkEncoder:
    """Encodes chunks, in a separate process."""

    def __init__(self, tokenizer: Tokenizer, specials: Collection[str]):
        self._tokenizer, self._specials = tokenizer, specials

    def __call__(self, chunk: Chunk) -> tuple[NDArray[np.unsignedinteger], int]:
        """The ids of a chunk, and its bytes of text."""
        begins, texts = zip(*chunk, strict=True)
        ids = self._tokenizer.encode_documents(texts, self._specials, begins)
        return ids.astype(id_dtype(self._tokenizer.vocab_size)), sum(len(text.encode("utf-8")) for text in texts)
