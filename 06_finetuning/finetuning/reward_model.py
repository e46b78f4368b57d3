"""A reward model: one score for an answer, learned from which of two people prefer.

Scores are to explain preferences: the better answer wins with probability σ(r_chosen - r_rejected)
(Bradley & Terry, 1952), so the loss is -ln of that. Only differences count; the scores have no zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetuning.classification import pad_texts
from finetuning.data.shuffled_source import ShuffledSource
from finetuning.dpo import EncodedPair
from training.data.batches import Batch


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-ln σ(r_chosen - r_rejected), the mean over pairs.

    Args:
        chosen: (pairs,) scores of the better answers.
        rejected: (pairs,) scores of the worse ones.
    """
    return -F.logsigmoid(chosen - rejected).mean()


class RewardBatches(ShuffledSource):
    """Draws pairs as texts to be scored whole.

    A batch holds `ids` (2 · pairs, longest), first all better answers with their conversations, then the
    worse ones, and `lengths` (2 · pairs,).

    Args:
        pairs: what to learn from.
        seed: of the order.
    """

    what = "preference"

    def __init__(self, pairs: Sequence[EncodedPair], seed: int):
        super().__init__(len(pairs), seed)
        self.pairs = pairs

    def make_batch(self, chosen: list[int]) -> Batch:
        """The tensors of some pairs."""
        ids, lengths = _pad_pairs([self.pairs[i] for i in chosen])
        return Batch({"ids": ids, "lengths": lengths}, float(len(chosen)))


def reward_loss(model: nn.Module, tensors: dict[str, Tensor]) -> Tensor:
    """The Bradley–Terry loss of a `SequenceClassifier` with one output. A `training.data.batches.LossFunction`."""
    chosen, rejected = model(tensors["ids"], tensors["lengths"])[:, 0].chunk(2)
    return bradley_terry_loss(chosen, rejected)


@torch.no_grad()
def reward_accuracy(model: nn.Module, pairs: Sequence[EncodedPair], batch_size: int = 16) -> float:
    """Share of pairs whose better answer has the higher score."""
    right = 0
    for start in range(0, len(pairs), batch_size):
        ids, lengths = _pad_pairs(pairs[start : start + batch_size])
        chosen, rejected = model(ids, lengths)[:, 0].chunk(2)
        right += int((chosen > rejected).sum())
    return right / len(pairs)


def _pad_pairs(pairs: Sequence[EncodedPair]) -> tuple[Tensor, Tensor]:
    return pad_texts([pair.chosen.ids for pair in pairs] + [pair.rejected.ids for pair in pairs])
