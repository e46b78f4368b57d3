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
        A scalar, differentiable, and finite for any scores.
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
    yield Case("differences of ±2,000", [torch.tensor([-1000.0, 1000.0]), torch.tensor([1000.0, -1000.0])])


def _exchanged(chosen: Tensor, rejected: Tensor) -> Tensor:
    return -F.logsigmoid(rejected - chosen).mean()


def _summed(chosen: Tensor, rejected: Tensor) -> Tensor:
    return -F.logsigmoid(chosen - rejected).sum()


def _underflowing(chosen: Tensor, rejected: Tensor) -> Tensor:
    return -(chosen - rejected).sigmoid().log().mean()


def _overflowing(chosen: Tensor, rejected: Tensor) -> Tensor:
    return (1 + (rejected - chosen).exp()).log().mean()


def _clamped(chosen: Tensor, rejected: Tensor) -> Tensor:
    return -(chosen - rejected).sigmoid().clamp(min=1e-7).log().mean()


def _detached(chosen: Tensor, rejected: Tensor) -> Tensor:
    return torch.tensor([-F.logsigmoid(c - r).item() for c, r in zip(chosen, rejected, strict=True)]).mean()


def _of_means(chosen: Tensor, rejected: Tensor) -> Tensor:
    return -F.logsigmoid(chosen.mean() - rejected.mean())


_INFINITE = "if the worse answer's score is much higher, σ becomes 0 or exp infinite: use F.logsigmoid"

EXERCISE = Exercise(
    stub=bradley_terry_loss,
    reference="finetuning.reward_model:bradley_terry_loss",
    cases=cases,
    differentiable=True,
    hints=(
        "First compute one number for each pair, then the mean.",
        "σ(x) is 0 in float32 for x below about -104, and ln 0 is -inf. PyTorch has a function for ln σ that stays finite.",
        "-F.logsigmoid(chosen - rejected).mean().",
    ),
    mistakes=(
        Mistake(_of_means, "the difference is taken in each pair; a difference of means lets pairs cancel"),
        Mistake(_exchanged, "the better answer's score comes first: this rewards the worse one"),
        Mistake(_summed, "the loss is the mean over pairs, not the sum"),
        Mistake(_underflowing, _INFINITE),
        Mistake(_overflowing, _INFINITE),
        Mistake(
            _clamped, "clamping σ makes the loss finite, but wrong: it must grow with the difference. Use F.logsigmoid"
        ),
        Mistake(_detached, "torch.tensor makes new numbers, through which no gradient flows: compute with the tensors"),
    ),
)
