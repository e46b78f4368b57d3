"""The loss of a reward model: one score for an answer, learned from which of two answers people prefer.

Scores should explain preferences: the better answer wins with probability σ(r_chosen - r_rejected)
(Bradley & Terry, 1952), so the loss is -ln of that. Only differences count; the scores have no zero. A
`SequenceClassifier` with one output gives such scores.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-ln σ(r_chosen - r_rejected), the mean over pairs.

    Args:
        chosen: (pairs,) scores of the better answers.
        rejected: (pairs,) scores of the worse ones.
    """
    return -F.logsigmoid(chosen - rejected).mean()
