"""Batches of conversations: packed side by side, invisible to one another.

Conversations are short, and a context is long. Padding each to the context would spend most of the work on
nothing, so several are packed into one row. A document mask keeps them apart, and positions start again in
each. The loss is then the same as if each conversation had a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attention.masks import document_mask
from finetuning.data.chat_format import EncodedConversation
from training.data.batches import IGNORED, Batch


class ConversationBatches:
    """Draws rows of packed conversations; every epoch in a new order, each conversation once.

    A batch holds `inputs`, `targets` (IGNORED where nothing is learned), `positions`, all (batch, context)
    int64, and `allowed`, boolean (batch, 1, context, context).

    Args:
        conversations: each at most context_length + 1 tokens.
        context_length: tokens of a row.
        seed: decides the order.
        pack: put several into one row; otherwise each row has one, padded.
        rank: of this process.
        world_size: how many processes draw; a batch is their rows together.

    Raises:
        ValueError: there is no conversation, or one is too long.
    """

    def __init__(
        self,
        conversations: Sequence[EncodedConversation],
        context_length: int,
        seed: int,
        pack: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ):
        if not conversations:
            raise ValueError("there is no conversation to learn from")
        longest = max(len(conversation.ids) for conversation in conversations)
        if longest > context_length + 1:
            raise ValueError(f"a conversation has {longest} tokens, a row has room for {context_length + 1}")
        self.conversations, self.context_length = conversations, context_length
        self.seed, self.pack, self.rank, self.world_size = seed, pack, rank, world_size
        self.drawn = 0  # rows, by all processes: the whole state
        self._epoch_rows: dict[int, list[list[int]]] = {}

    def next_batch(self, batch_size: int) -> Batch:
        """The next rows of this process."""
        first = self.drawn + self.rank * batch_size
        rows = [[self.conversations[i] for i in self._row(first + row)] for row in range(batch_size)]
        self.drawn += batch_size * self.world_size
        return pack_rows(rows, self.context_length)

    def state_dict(self) -> dict[str, Any]:
        """One integer."""
        return {"rows_drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at the exact row."""
        self.drawn = int(state["rows_drawn"])

    @property
    def rows_per_epoch(self) -> int:
        """Rows of the first epoch; later ones may need one or two more or fewer."""
        return len(self._rows_of(0))

    def _row(self, number: int) -> list[int]:
        """Conversations of the n-th row over all epochs."""
        epoch = 0
        while number >= len(self._rows_of(epoch)):
            number -= len(self._rows_of(epoch))
            epoch += 1
        return self._rows_of(epoch)[number]

    def _rows_of(self, epoch: int) -> list[list[int]]:
        if epoch not in self._epoch_rows:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.conversations))
            self._epoch_rows[epoch] = self._fill(order.tolist())
        return self._epoch_rows[epoch]

    def _fill(self, order: list[int]) -> list[list[int]]:
        """Put conversations into rows, each into the first of the last 32 open rows that has room."""
        rows: list[list[int]] = []
        room: list[int] = []
        for index in order:
            need = len(self.conversations[index].ids) - 1
            candidates = range(max(0, len(rows) - 32), len(rows)) if self.pack else ()
            for row in candidates:
                if room[row] >= need:
                    rows[row].append(index)
                    room[row] -= need
                    break
            else:
                rows.append([index])
                room.append(self.context_length - need)
        return rows


def pack_rows(rows: Sequence[Sequence[EncodedConversation]], context_length: int) -> Batch:
    """The tensors of rows of conversations; see `ConversationBatches`."""
    inputs = torch.zeros(len(rows), context_length, dtype=torch.long)
    targets = torch.full_like(inputs, IGNORED)
    positions = torch.zeros_like(inputs)
    documents = torch.full_like(inputs, -1)  # padding is a document of its own, which nobody reads
    for row, conversations in enumerate(rows):
        start = 0
        for number, conversation in enumerate(conversations):
            ids, learned = torch.tensor(conversation.ids), torch.tensor(conversation.learned)
            place = slice(start, start + len(ids) - 1)
            inputs[row, place] = ids[:-1]
            targets[row, place] = torch.where(learned[1:], ids[1:], IGNORED)
            positions[row, place] = torch.arange(len(ids) - 1)
            documents[row, place] = number
            start = place.stop
    tensors: dict[str, Tensor] = {
        "inputs": inputs,
        "targets": targets,
        "positions": positions,
        "allowed": document_mask(documents),
    }
    return Batch(tensors, float((targets != IGNORED).sum()))
