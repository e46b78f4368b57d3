"""Exercise 6.5: The loss of a reward model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """The mean of -ln σ(s_chosen - s_rejected) over pairs (Bradley & Terry, 1952).

    In this model the better answer wins with probability σ(difference of the scores). The loss is its cross-entropy.

    Args:
        chosen: (pairs,) scores of the better answers.
        rejected: (pairs,) scores of the worse answers.

    Returns:
        A scalar, finite for any scores.
    """
    raise NotImplementedError("Exercise 6.5: the better answer should win")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator

import torch

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """Equal; right; wrong; very wrong."""
    yield Case("two equal scores: ln 2", [torch.tensor([1.0]), torch.tensor([1.0])])
    yield Case("two pairs, one of them in the wrong order", [torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.0])])
    yield Case("differences of ±200", [torch.tensor([-100.0, 100.0]), torch.tensor([100.0, -100.0])])


def _exchanged(chosen: Tensor, rejected: Tensor) -> Tensor:
    return -F.logsigmoid(rejected - chosen).mean()


def _summed(chosen: Tensor, rejected: Tensor) -> Tensor:
    return -F.logsigmoid(chosen - rejected).sum()


def _underflowing(chosen: Tensor, rejected: Tensor) -> Tensor:
    return -(chosen - rejected).sigmoid().log().mean()


def _of_means(chosen: Tensor, rejected: Tensor) -> Tensor:
    return -F.logsigmoid(chosen.mean() - rejected.mean())


EXERCISE = Exercise(
    stub=bradley_terry_loss,
    reference="finetuning.reward_model:bradley_terry_loss",
    cases=cases,
    hints=(
        "First compute one number for each pair, then the mean.",
        "σ(x) is 0 in float32 for x below about -104, and ln 0 is -inf. PyTorch has a function for ln σ that stays finite.",
        "-F.logsigmoid(chosen - rejected).mean().",
    ),
    mistakes=(
        Mistake(_of_means, "the difference is taken in each pair; a difference of means lets pairs cancel"),
        Mistake(_exchanged, "the better answer's score comes first: this rewards the worse one"),
        Mistake(_summed, "the loss is the mean over pairs, not the sum"),
        Mistake(_underflowing, "σ underflows to 0 if the worse answer's score is much higher: use F.logsigmoid"),
    ),
)
