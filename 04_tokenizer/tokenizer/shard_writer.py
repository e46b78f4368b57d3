"""Write ids to files: flat, little-endian, in one file or in shards of a limited size.

Read them by `np.memmap(path, dtype=...)`. The prepared data sets of stage 5 have this format.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from groundwork.files import replacing


def id_dtype(vocab_size: int) -> np.dtype:
    """The smallest type that holds every id: little-endian uint16 or uint32."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


class ShardWriter:
    """Writes ids under temporary names; the files get their names together, at the end of the `with` block.

    Files of an earlier encoding with this output, such as shards with higher numbers, are then removed, because a reader
    would take them for the end of this one. If the block raises an error, no file is left, and the earlier ones stay.

    Args:
        output: the file to write, such as `train.bin`. With shards, `train_00000.bin`, `train_00001.bin`, …
        dtype: of the ids.
        shard_tokens: the most ids in a file; None for one file.
    """

    def __init__(self, output: Path, dtype: np.dtype, shard_tokens: int | None = None):
        self._output, self._dtype, self._limit = output, dtype, shard_tokens
        self._unfinished = ExitStack()
        self.paths: list[Path] = []
        self.tokens = 0

    def __enter__(self) -> ShardWriter:
        self._open_next()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._unfinished.__exit__(kind, error, trace)
        if kind is None:
            name = re.compile(rf"{re.escape(self._output.stem)}(_\d{{5,}})?{re.escape(self._output.suffix)}")
            for file in self._output.parent.iterdir():
                if name.fullmatch(file.name) and file not in self.paths:
                    file.unlink()

    def write(self, ids: NDArray[np.unsignedinteger]) -> None:
        """Append ids, `(ids,)`; each must fit into the dtype."""
        while len(ids):
            room = len(ids) if self._limit is None else self._limit * len(self.paths) - self.tokens
            if not room:
                self._file.close()
                self._open_next()
                continue
            part, ids = ids[:room], ids[room:]
            self._file.write(part.astype(self._dtype, copy=False).tobytes())
            self.tokens += len(part)

    def _open_next(self) -> None:
        index = f"_{len(self.paths):05d}" if self._limit is not None else ""
        self.paths.append(self._output.with_name(f"{self._output.stem}{index}{self._output.suffix}"))
        temporary = self._unfinished.enter_context(replacing(self.paths[-1]))
        self._file: IO[bytes] = open(temporary, "wb")  # noqa: SIM115 (closed here or at the end of the block)
