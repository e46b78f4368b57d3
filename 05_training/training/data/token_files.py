"""Token files: flat little-endian ids on disk, mapped into memory instead of read.

A corpus that was prepared at once is one file, `train.bin`. A streamed one is several, `train_00000.bin`,
`train_00001.bin`, …: shards of a size that is easy to copy and upload.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np


class DataError(ValueError):
    """Token files that cannot be trained on."""


class Tokens(Protocol):
    """A sequence of ids that can be sliced: an array, a memory map, or shards."""

    def __len__(self) -> int:
        """How many ids."""
        ...

    def __getitem__(self, where: slice, /) -> np.ndarray:
        """Ids from start to stop."""
        ...


class TokenShards:
    """Several arrays of ids as one sequence.

    >>> tokens = TokenShards([np.arange(3), np.arange(3, 5)])
    >>> len(tokens), tokens[1:4].tolist()
    (5, [1, 2, 3])
    """

    def __init__(self, shards: Sequence[np.ndarray]):
        self.shards = list(shards)
        self.ends = np.cumsum([len(shard) for shard in shards]).tolist()

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, where: slice, /) -> np.ndarray:
        start, stop, _ = where.indices(len(self))
        pieces = []
        while start < stop:
            index = bisect_right(self.ends, start)
            begin = self.ends[index] - len(self.shards[index])
            pieces.append(self.shards[index][start - begin : stop - begin])
            start = min(stop, self.ends[index])
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, self.shards[0].dtype), *pieces])


def find_token_files(folder: Path, split: str) -> list[Path]:
    """The token files of a split, `train` or `val`, in order."""
    single = folder / f"{split}.bin"
    return [single] if single.exists() else sorted(folder.glob(f"{split}_[0-9]*.bin"))


def open_tokens(paths: Sequence[Path], dtype: str, vocab_size: int, context_length: int) -> Tokens:
    """Memory-map token files and check them.

    Args:
        paths: one file or all shards of a split.
        dtype: of the ids, from `meta.json`.
        vocab_size: every id must be below it.
        context_length: the files must hold one window and the token after it.

    Raises:
        DataError: there is no file, a file was cut off, the text is too short, or an id is out of range.
    """
    if not paths:
        raise DataError("there are no token files: the prepared folder is incomplete; delete it to prepare it again")
    shards = []
    for path in paths:
        size = path.stat().st_size
        if size == 0:
            raise DataError(f"{path} is empty")
        if size % np.dtype(dtype).itemsize:
            raise DataError(f"{path} has {size} bytes, not a multiple of {dtype}: it was cut off; prepare it again")
        tokens = np.memmap(path, dtype=dtype, mode="r")
        largest = max(int(tokens[i : i + (1 << 24)].max()) for i in range(0, len(tokens), 1 << 24))
        if largest >= vocab_size:
            raise DataError(f"{path} holds the id {largest}, outside the vocabulary of {vocab_size}: prepare it again")
        shards.append(tokens)
    total = sum(len(shard) for shard in shards)
    if total < context_length + 1:
        raise DataError(
            f"{paths[0].name} has {total} tokens, fewer than one context of {context_length} and the token after "
            "it: use a longer text, or a smaller model.context_length"
        )
    return shards[0] if len(shards) == 1 else TokenShards(shards)
