"""Batches of token windows from memory-mapped files.

The files may be far larger than memory: only the pages that a batch touches are read. The order of
the windows depends only on the seed and the number of sequences drawn so far, so a resumed run continues
at the exact sample with one integer of state, on any number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from attention.masks import document_ids, document_mask
from training.data.batches import IGNORED, Batch
from training.data.token_files import DataError, Tokens

# In each block of this many samples, every corpus gets its exact share; weights are rounded to one in this many.
MIXTURE_BLOCK = 1024


class WindowOrder:
    """Which window of a token sequence is the n-th: each epoch cuts the tokens again and shuffles the pieces.

    Epoch e starts cutting at a random offset, so that a token does not always stand at the same
    place in its window. Every window of an epoch is seen once before any is seen again.

    Args:
        num_tokens: at least one window and the token after it.
        context_length: inputs per window.
        seed: decides the offsets and the order.
    """

    def __init__(self, num_tokens: int, context_length: int, seed: Sequence[int]):
        self.num_tokens, self.context_length, self.seed = num_tokens, context_length, list(seed)
        # An epoch can start up to context_length - 1 tokens late, and each window needs one more token.
        self.windows_per_epoch = max(1, (num_tokens - context_length) // context_length)
        self._epoch = -1
        self._starts = np.empty(0, dtype=np.int64)

    def start_of(self, sample: int) -> int:
        """Where the window of a sample, counted from 0 over all epochs, begins."""
        epoch, index = divmod(sample, self.windows_per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([*self.seed, epoch])
            spare = self.num_tokens - 1 - self.windows_per_epoch * self.context_length
            offset = rng.integers(0, spare + 1)
            self._starts = offset + self.context_length * rng.permutation(self.windows_per_epoch)
            self._epoch = epoch
        return int(self._starts[index])


class Mixture:
    """Which corpus the n-th sample comes from, by weights.

    Every block of 1,024 samples holds each corpus in proportion, in a shuffled order. So the shares are
    exact, not just expected, and the number of samples that a corpus gave before the n-th is known without counting.

    Args:
        weights: of each corpus; only their ratios matter.
        seed: decides the order.

    Raises:
        DataError: a weight is not above 0, or too small compared with the others.
    """

    def __init__(self, weights: Mapping[str, float], seed: int):
        total = sum(weights.values())
        shares = {name: weight / total * MIXTURE_BLOCK for name, weight in weights.items()}
        counts = {name: int(share) for name, share in shares.items()}
        for name in sorted(shares, key=lambda n: counts[n] - shares[n])[: MIXTURE_BLOCK - sum(counts.values())]:
            counts[name] += 1  # largest remainders first
        if small := [name for name, count in counts.items() if count < 1]:
            raise DataError(f"the weight of {', '.join(small)} is below 1/{MIXTURE_BLOCK} of all weights: raise it")
        self.counts, self.seed = list(counts.values()), seed
        self._block = -1
        self._owners = np.empty(0, dtype=np.int64)

    def draw(self, sample: int) -> tuple[int, int]:
        """The corpus of a sample, and which of that corpus's samples it is."""
        block, index = divmod(sample, MIXTURE_BLOCK)
        if block != self._block:
            rng = np.random.default_rng([self.seed, block])
            self._owners = rng.permutation(np.repeat(np.arange(len(self.counts)), self.counts))
            self._block = block
        owner = int(self._owners[index])
        return owner, block * self.counts[owner] + int((self._owners[:index] == owner).sum())


class WindowLoader:
    """Draws windows from one corpus or several.

    A batch holds `inputs` and, shifted by one, `targets`, each (batch, context_length) int64. Several
    processes share the next rows: together they see what one process with the larger batch would see.

    Args:
        corpora: token ids of each corpus, (num_tokens,), usually memory maps.
        context_length: inputs per window.
        seed: decides the offsets and the order.
        weights: how often each corpus is drawn from; None: in proportion to its number of tokens.
        rank: of this process.
        world_size: how many processes draw.
        document_separator: id between documents. If it is given, attention does not cross it (the batch gets
            `allowed`, boolean (batch, 1, time, time)), and the beginning of a document is not predicted from the
            document before it.
    """

    def __init__(
        self,
        corpora: Mapping[str, Tokens],
        context_length: int,
        seed: int,
        weights: Mapping[str, float] | None = None,
        rank: int = 0,
        world_size: int = 1,
        document_separator: int | None = None,
    ):
        self.corpora, self.context_length = dict(corpora), context_length
        self.rank, self.world_size, self.document_separator = rank, world_size, document_separator
        # With a single corpus, the order depends on the seed alone.
        seeds = [[seed]] if len(corpora) == 1 else [[seed, index] for index in range(len(corpora))]
        self.orders = [
            WindowOrder(len(tokens), context_length, own)
            for tokens, own in zip(self.corpora.values(), seeds, strict=True)
        ]
        self._tokens = list(self.corpora.values())
        shares = weights or {name: float(len(tokens)) for name, tokens in self.corpora.items()}
        self.mixture = Mixture(shares, seed) if len(corpora) > 1 else None
        self.drawn = 0  # sequences, by all processes: the whole state

    def next_batch(self, batch_size: int) -> Batch:
        """The next windows of this process."""
        length = self.context_length + 1
        rows = np.empty((batch_size, length), dtype=np.int64)
        first = self.drawn + self.rank * batch_size
        for row in range(batch_size):
            corpus, sample = self.mixture.draw(first + row) if self.mixture else (0, first + row)
            start = self.orders[corpus].start_of(sample)
            rows[row] = self._tokens[corpus][start : start + length]
        self.drawn += batch_size * self.world_size
        windows = torch.from_numpy(rows)
        tensors = {"inputs": windows[:, :-1], "targets": windows[:, 1:]}
        if self.document_separator is None:
            return Batch(tensors, float(batch_size * self.context_length))
        tensors["allowed"] = document_mask(document_ids(tensors["inputs"], self.document_separator))
        # The separator opens a document and cannot be predicted from the document before it, so it is left out.
        tensors["targets"] = tensors["targets"].masked_fill(tensors["targets"] == self.document_separator, IGNORED)
        return Batch(tensors, float((tensors["targets"] != IGNORED).sum()))

    @property
    def epochs(self) -> float:
        """How many times the data has been used, over all corpora."""
        return self.drawn / sum(order.windows_per_epoch for order in self.orders)

    def state_dict(self) -> dict[str, Any]:
        """One integer."""
        return {"sequences_drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at the exact sample."""
        self.drawn = int(state["sequences_drawn"])
