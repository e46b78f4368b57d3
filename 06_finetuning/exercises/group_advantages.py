"""Exercise 6.7: Advantages in a group."""

from __future__ import annotations

from torch import Tensor


def group_advantages(rewards: Tensor) -> Tensor:
    """How much better each answer is than its group, in standard deviations (Shao et al., 2024).

        A = (r - mean of the group) / (standard deviation of the group + 1e-6)

    The standard deviation is that of the group itself, so divide by the number of answers. If all answers of a group
    have the same reward, nothing can be learned from it and all advantages are 0.

    Args:
        rewards: (groups, group_size).

    Returns:
        (groups, group_size).
    """
    raise NotImplementedError("Exercise 6.7: better than the others")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator
from typing import Any

import torch

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """One right of four; two groups; equal rewards; nearly equal rewards; one answer; large rewards."""
    yield Case("one of four answers is right", [torch.tensor([[1.0, 0.0, 0.0, 0.0]])])
    yield Case("an easy and a hard question", [torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0]])])
    yield Case("a group whose answers are all right", [torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.5, 1.0]])])
    # In float32 the deviation of these is exact to four digits.
    yield Case("two rewards that differ very little", [torch.tensor([[0.5, 0.502]])], tolerance=1e-3)
    yield Case("a group of one answer", [torch.tensor([[0.7], [0.2]])])
    yield Case("rewards of about 10,000, a unit apart", [torch.tensor([[10000.0, 10001.0, 10002.0]])], tolerance=1e-3)


def _advantages(rewards: Tensor, **wrong: bool) -> Tensor:
    dim = 0 if wrong.get("across") else 1
    if wrong.get("whole"):
        return (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-6)
    centred = rewards - rewards.mean(dim=dim, keepdim=True)
    if wrong.get("centred_only"):
        return centred
    deviation = rewards.std(dim=dim, keepdim=True, correction=int(bool(wrong.get("bessel"))))
    if wrong.get("squares"):
        mean = rewards.mean(dim=dim, keepdim=True)
        deviation = (rewards.square().mean(dim=dim, keepdim=True) - mean.square()).clamp(min=0.0).sqrt()
    if wrong.get("in_place"):
        rewards -= rewards.mean(dim=dim, keepdim=True)
    if wrong.get("one_deviation"):
        deviation = rewards.std(correction=0)
    if wrong.get("eps_inside"):
        return centred / (deviation.square() + 1e-6).sqrt()
    return centred / (deviation + (0.0 if wrong.get("no_eps") else 1e-6))


def _mistaken(name: str) -> Callable[..., Any]:
    def group_advantages(rewards: Tensor) -> Tensor:
        return _advantages(rewards, **{name: True})

    return group_advantages


EXERCISE = Exercise(
    stub=group_advantages,
    reference="finetuning.grpo:group_advantages",
    cases=cases,
    hints=(
        "Compute the mean and standard deviation of each row. They must broadcast against the row.",
        "PyTorch's std divides by n - 1 unless you pass correction=0.",
        "(rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True, correction=0) + 1e-6).",
    ),
    mistakes=(
        Mistake(
            _mistaken("bessel"), "std divides by n - 1 by default; here the group is the whole population: correction=0"
        ),
        Mistake(
            _mistaken("centred_only"),
            "divide by the standard deviation, so that easy and hard questions count the same",
        ),
        Mistake(_mistaken("across"), "the group is a row: reduce over dim 1"),
        Mistake(_mistaken("whole"), "each group has its own mean and standard deviation"),
        Mistake(_mistaken("one_deviation"), "each group has its own standard deviation, not only its own mean"),
        Mistake(_mistaken("eps_inside"), "1e-6 is added to the standard deviation, not under the root"),
        Mistake(
            _mistaken("squares"),
            "mean(r²) - mean(r)² loses all digits if rewards are large: take the mean of (r - mean)²",
        ),
        Mistake(
            _mistaken("in_place"),
            "`rewards` belongs to the caller: r = r - mean makes a new tensor, r -= mean does not",
        ),
        Mistake(_mistaken("no_eps"), "a group of equal rewards has deviation 0: add 1e-6"),
    ),
)
