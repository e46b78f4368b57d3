"""A reward model: one score for an answer, learned from which of two people prefer.

Scores are to explain preferences: the better answer wins with probability σ(r_chosen - r_rejected)
(Bradley & Terry, 1952), so the loss is -ln of that. Only differences count; the scores have no zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetuning.classification import pad_texts
from finetuning.preference_optimization import EncodedPair
from training.batches import Batch


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-ln σ(r_chosen - r_rejected), the mean over pairs.

    Args:
        chosen: (pairs,) scores of the better answers.
        rejected: (pairs,) scores of the worse ones.
    """
    return -F.logsigmoid(chosen - rejected).mean()


class RewardBatches:
    """Draws pairs as texts to be scored whole. A `training.batches.BatchSource`.

    A batch holds `ids` (2 · pairs, longest), first all better answers with their conversations, then the
    worse ones, and `lengths` (2 · pairs,).

    Args:
        pairs: what to learn from.
        seed: of the order.
    """

    def __init__(self, pairs: Sequence[EncodedPair], seed: int):
        if not pairs:
            raise ValueError("there is no preference to learn from")
        self.pairs, self.seed, self.drawn = pairs, seed, 0

    def next_batch(self, batch_size: int) -> Batch:
        """The next pairs."""
        chosen = []
        for number in range(self.drawn, self.drawn + batch_size):
            epoch, index = divmod(number, len(self.pairs))
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.pairs))
            chosen.append(self.pairs[int(order[index])])
        self.drawn += batch_size
        ids, lengths = pad_texts([pair.chosen.ids for pair in chosen] + [pair.rejected.ids for pair in chosen])
        return Batch({"ids": ids, "lengths": lengths}, float(batch_size))

    def state_dict(self) -> dict[str, Any]:
        """One integer."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at the exact pair."""
        self.drawn = int(state["drawn"])


def reward_loss(model: nn.Module, tensors: dict[str, Tensor]) -> Tensor:
    """The Bradley–Terry loss of a `SequenceClassifier` with one output. A `training.batches.LossFunction`."""
    chosen, rejected = model(tensors["ids"], tensors["lengths"])[:, 0].chunk(2)
    return bradley_terry_loss(chosen, rejected)


@torch.no_grad()
def reward_accuracy(model: nn.Module, pairs: Sequence[EncodedPair], batch_size: int = 16) -> float:
    """Share of pairs whose better answer has the higher score."""
    right = 0
    for start in range(0, len(pairs), batch_size):
        some = pairs[start : start + batch_size]
        ids, lengths = pad_texts([pair.chosen.ids for pair in some] + [pair.rejected.ids for pair in some])
        chosen, rejected = model(ids, lengths)[:, 0].chunk(2)
        right += int((chosen > rejected).sum())
    return right / len(pairs)
