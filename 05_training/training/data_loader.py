"""Batches of token windows from a memory-mapped file.

The file may be far larger than memory: only the pages that a batch touches are read. The order of
the windows follows from the seed and the number of sequences drawn so far and from nothing else,
so a resumed run continues at the exact sample with one integer of state.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class DataError(ValueError):
    """Token files that cannot be trained on."""


def open_tokens(path: Path, dtype: str, vocab_size: int, context_length: int) -> np.ndarray:
    """Memory-map a token file and check it.

    Args:
        path: `train.bin` or `val.bin`.
        dtype: of the ids, from `meta.json`.
        vocab_size: every id must be below it.
        context_length: the file must hold one window and the token after it.

    Raises:
        DataError: too short, or an id out of range.
    """
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    tokens = np.memmap(path, dtype=dtype, mode="r")
    if len(tokens) < context_length + 1:
        raise DataError(
            f"{path.name} has {len(tokens)} tokens, fewer than one context of {context_length} and the token after "
            "it: use a longer text, or a smaller model.context_length"
        )
    largest = max(int(tokens[i : i + (1 << 24)].max()) for i in range(0, len(tokens), 1 << 24))
    if largest >= vocab_size:
        raise DataError(f"{path} holds the id {largest}, outside the vocabulary of {vocab_size}: prepare it again")
    return tokens


class WindowLoader:
    """Draws windows epoch by epoch: each epoch cuts the tokens anew and shuffles the pieces.

    Epoch e starts cutting at a random offset, so that a token does not always stand at the same
    place in its window, and every window of an epoch is seen once before any is seen again.

    Args:
        tokens: (num_tokens,) ids, usually a memory map.
        context_length: inputs per window.
        seed: of the offsets and the order.
    """

    def __init__(self, tokens: np.ndarray, context_length: int, seed: int):
        self.tokens, self.context_length, self.seed = tokens, context_length, seed
        # An epoch can start up to context_length - 1 tokens late, and each window needs a token more.
        self.windows_per_epoch = max(1, (len(tokens) - context_length) // context_length)
        self.drawn = 0  # the whole state
        self._epoch = -1
        self._starts = np.empty(0, dtype=np.int64)

    def next_batch(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """The next windows: inputs and, shifted by one, targets, each (batch, context_length) int64."""
        length = self.context_length + 1
        batch = np.empty((batch_size, length), dtype=np.int64)
        for row in range(batch_size):
            start = self._start_of(self.drawn)
            batch[row] = self.tokens[start : start + length]
            self.drawn += 1
        windows = torch.from_numpy(batch)
        return windows[:, :-1], windows[:, 1:]

    @property
    def epochs(self) -> float:
        """How often the data has been gone through."""
        return self.drawn / self.windows_per_epoch

    def _start_of(self, sample: int) -> int:
        epoch, index = divmod(sample, self.windows_per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed, epoch])
            spare = len(self.tokens) - 1 - self.windows_per_epoch * self.context_length
            offset = rng.integers(0, spare + 1)
            self._starts = offset + self.context_length * rng.permutation(self.windows_per_epoch)
            self._epoch = epoch
        return int(self._starts[index])
