"""Decoding on a CPU by one compiled function for a whole step; prompts by PyTorch, on the same weights.

A prompt's tokens go through PyTorch's matrix products, one request's chunk at a time: chunks are cut at the same places
whatever else the engine does, so that a prompt's numbers do not depend on the other requests. Every token after the prompt
is a row of the compiled step, and so are those of a chunk that is too short for PyTorch to be faster. A row's numbers do not
depend on the other rows, their number, or the number of threads. This is also so for a token that is computed again after a
preemption, and for one that was a guess.

Blocks that are found in the cache can hold the tokens that another request has generated, where this one has them in its
prompt. They were computed in another way, so there the last bits may differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from optimization.engine.model_runner import PyTorchRunner
from optimization.engine.paged_kv_cache import BlockStorage
from optimization.engine.scheduler import ScheduledRequest
from optimization.kernels.arrays import Cache, Model, Rows, Scratch, Shape
from optimization.kernels.step import decode, num_phases
from optimization.kernels.threads import CREW
from transformer.config import GPTConfig

MOST_ROWS = 32  # in one call: what is computed on the way for so many rows stays in the processor's caches
# Chunks of a prompt up to this length are rows, too. PyTorch has to turn quantized weights into floats for each chunk.
SHORT_CHUNK, SHORT_CHUNK_QUANTIZED = 8, 32


class CompiledRunner:
    """Computes tokens after the prompt by `optimization.kernels`, and prompts by PyTorch.

    Args:
        prompts: for the prompts.
        weights: the shape and the arrays of the model, from `stack_model`.
        storage: the tensors of the blocks.
        block_size: tokens in a block.
        config: the model.
        vocab_size: ids that the tokenizer knows; a model may have a few more, which are never drawn.
    """

    def __init__(
        self,
        prompts: PyTorchRunner,
        weights: tuple[Shape, Model],
        storage: BlockStorage,
        block_size: int,
        config: GPTConfig,
        vocab_size: int,
    ):
        self.prompts, self.storage = prompts, storage
        self._shape, self._model = weights
        self._softcap, self._vocab_size = config.logit_softcap, vocab_size
        self._threads = torch.get_num_threads()
        quantized = self._model.qkv.weight.dtype in (np.int8, np.uint8)
        self._short_chunk = SHORT_CHUNK_QUANTIZED if quantized else SHORT_CHUNK
        self._cache = Cache(*storage.arrays(), block_size)
        queries, keys = config.num_heads * config.head_size, config.kv_heads * config.head_size

        def floats(*shape: int) -> Any:
            return np.zeros(shape, dtype=np.float32)

        self._scratch = Scratch(
            x=floats(MOST_ROWS, config.d_model),
            read=floats(MOST_ROWS, config.d_model),
            qkv=floats(MOST_ROWS, queries + 2 * keys),
            heads=floats(MOST_ROWS, queries),
            part=floats(MOST_ROWS, config.d_model),
            hidden=floats(MOST_ROWS, self._model.up.bias.shape[1]),
            scores=floats(self._threads, config.num_heads // config.kv_heads, config.context_length),
        )

    def warm_up(self) -> None:
        """Compile, or load what was compiled, by a step of one token. Its keys are written again before they are read."""
        none = np.zeros(1, dtype=np.int64)
        logits = np.empty((1, self._model.head.bias.shape[1]), dtype=np.float32)
        self._compute(Rows(none, none, none[None], logits))

    def run(self, scheduled: list[ScheduledRequest]) -> list[Tensor]:
        """See `Runner.run`."""
        as_rows = [not item.request.in_prompt or item.count <= self._short_chunk for item in scheduled]
        rows = [item for item, is_row in zip(scheduled, as_rows, strict=True) if is_row]
        decoded = iter(self._decode(rows) if rows else [])
        pairs = zip(scheduled, as_rows, strict=True)
        return [next(decoded) if is_row else self.prompts.run([item])[0] for item, is_row in pairs]

    def _decode(self, scheduled: list[ScheduledRequest]) -> list[Tensor]:
        """The tokens of all requests, at most `MOST_ROWS` in one call."""
        ids, positions, owners = list[int](), list[int](), list[int]()
        ends = []
        for index, item in enumerate(scheduled):
            start = item.request.table.length
            tokens = item.request.tokens[start : start + item.count] + item.proposal.tokens
            ids += tokens
            positions += range(start, start + len(tokens))
            owners += [index] * len(tokens)
            ends.append(len(ids))
        tables = _block_tables(scheduled)[owners]
        logits = np.empty((len(ids), self._model.head.bias.shape[1]), dtype=np.float32)
        for first in range(0, len(ids), MOST_ROWS):
            part = slice(first, first + MOST_ROWS)
            self._compute(Rows(np.array(ids[part]), np.array(positions[part]), tables[part], logits[part]))
        result = torch.from_numpy(logits)[:, : self._vocab_size]
        if self._softcap is not None:
            result = self._softcap * (result / self._softcap).tanh()
        found = []
        for item, end in zip(scheduled, ends, strict=True):
            needed = 1 + len(item.proposal.tokens) if item.completes else 0
            needed = item.count if item.request.wants_prompt_logits else needed
            found.append(result[end - needed : end])
        return found

    def _compute(self, rows: Rows) -> None:
        phases = num_phases(self._shape.num_layers)
        CREW.run(decode, phases, self._threads, self._shape, self._model, self._cache, rows, self._scratch)


def _block_tables(scheduled: list[ScheduledRequest]) -> Any:
    """(requests, most blocks) int64; blocks that were given back count as 0 and are not read."""
    tables = [[block or 0 for block in item.request.table.blocks] for item in scheduled]
    longest = max(map(len, tables))
    return np.array([table + [0] * (longest - len(table)) for table in tables])
