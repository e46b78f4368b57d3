"""Exercise 6.9: The sixteen levels of NF4."""

from __future__ import annotations

import torch
from torch import Tensor


def nf4_levels() -> Tensor:
    """Sixteen numbers from -1 to 1, dense where normally distributed weights are (Dettmers et al., 2023: "QLoRA").

    They are quantiles of the normal distribution: a share p of it lies below the number `torch.special.ndtri(p)`.

    - Positive side: eight quantiles, at the first 8 of 9 equally spaced shares from `outermost` down to 0.5.
    - Negative side: seven quantiles, at the first 7 of 8 equally spaced shares from `outermost` down to 0.5, with a minus
      sign.
    - The number 0 itself, which both sides leave out.

    `outermost` is the mean of 1 - 1/32 and 1 - 1/30, since the quantile of 1 would be infinite. Divide all numbers by the
    largest, so that they end at -1 and 1, and sort them.

    Returns:
        (16,) float32; compute in float64.
    """
    raise NotImplementedError("Exercise 6.9: levels where the weights are")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator

from learn.exercise import Case, Exercise, Mistake

# As printed in appendix E of the paper.
_PUBLISHED = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def cases() -> Iterator[Case]:
    """There is one answer, the paper's; the paper's own digits are not exact to the last."""
    yield Case("the levels of the paper's appendix", expected=torch.tensor(_PUBLISHED), tolerance=1e-6)
    yield Case("the same, to all digits of float32, which needs float64 on the way", tolerance=1e-8)


def _levels(positive_count: int = 8, negative_count: int = 7, **wrong: bool) -> Tensor:
    outermost, dtype = 0.5 * ((1 - 1 / 32) + (1 - 1 / 30)), torch.float32 if wrong.get("low") else torch.float64
    if wrong.get("one_margin"):
        outermost = 1 - 1 / 32

    def side(count: int) -> Tensor:
        return torch.special.ndtri(torch.linspace(outermost, 0.5, count + 1, dtype=dtype)[:-1])

    zero = torch.zeros(16 - positive_count - negative_count, dtype=dtype)
    levels = torch.cat([-side(negative_count), zero, side(positive_count)]).sort().values
    return (levels if wrong.get("not_divided") else levels / levels.max()).float()


def _symmetric() -> Tensor:
    return _levels(8, 8)


def _other_side() -> Tensor:
    return _levels(7, 8)


def _not_divided() -> Tensor:
    return _levels(not_divided=True)


def _one_margin() -> Tensor:
    return _levels(one_margin=True)


def _low() -> Tensor:
    return _levels(low=True)


def _equal_steps() -> Tensor:
    return torch.linspace(-1, 1, 16)


def _ends_at_half() -> Tensor:
    outermost = 0.5 * ((1 - 1 / 32) + (1 - 1 / 30))
    side = torch.special.ndtri(torch.linspace(outermost, 0.5, 8, dtype=torch.float64))
    return (torch.cat([-side, side]).sort().values / side.max()).float()


def _unsorted() -> Tensor:
    levels = _levels()
    return torch.cat([levels[8:].flip(0), levels[7:8], levels[:7]])


def _double() -> Tensor:
    return _levels().double()


EXERCISE = Exercise(
    stub=nf4_levels,
    reference="finetuning.adapters.nf4:nf4_levels",
    cases=cases,
    hints=(
        "Take equally spaced shares. For each, find the number below which that share of normally distributed numbers lies.",
        "torch.linspace(outermost, 0.5, 9, dtype=torch.float64)[:-1] are the eight shares of the positive side. The last of "
        "the nine, 0.5, would give the quantile 0.",
        "positive = ndtri(linspace(outermost, 0.5, 9)[:-1]); negative = -ndtri(linspace(outermost, 0.5, 8)[:-1]); "
        "torch.cat([negative, zero, positive]).sort().values, divided by the largest, .float().",
    ),
    mistakes=(
        Mistake(_symmetric, "eight levels on each side leave no room for 0, which must be a level exactly"),
        Mistake(_other_side, "the positive side has eight levels, the negative side seven"),
        Mistake(
            _ends_at_half, "the shares are the first 8 of 9 down to 0.5: the ninth, 0.5 itself, would be the level 0"
        ),
        Mistake(_unsorted, "the levels are sorted, from -1 to 1"),
        Mistake(_double, "the result is float32; only the way to it is float64"),
        Mistake(_low, "compute in float64: in float32 the last digits are lost on the way"),
        Mistake(_not_divided, "divide by the largest, so that the levels end at 1"),
        Mistake(_one_margin, "outermost is the mean of 1 - 1/32 and 1 - 1/30"),
        Mistake(_equal_steps, "these are equal steps; the levels are quantiles of the normal distribution"),
    ),
)
