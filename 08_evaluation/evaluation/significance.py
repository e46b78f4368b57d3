"""How much of a difference is luck: confidence intervals and paired tests.

A benchmark is a sample of the questions that could have been asked. With n questions, an accuracy of 50 % has a
standard error of √(0.25 / n): 3.5 points for 200 questions. Two models that answer the *same* questions can show a
smaller difference than that, because a question that is hard for one is mostly hard for the other. So compare
them question by question.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from groundwork.user_errors import UserError

RESAMPLES = 10_000
_BLOCK = 1 << 22  # numbers drawn at once


@dataclass(frozen=True)
class Interval:
    """An estimate and the range that holds the true value with the given confidence."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_interval(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of a mean or ratio (Efron, 1979).

    The sample takes the place of the population. Draw a new sample of the same size from it, with repetition. Do
    this many times, and see how far the mean moves.

    Args:
        values: (items,) such as 0 or 1 for each question, or the bits that each document costs.
        weights: (items,) such as the documents' bytes; then sum(values) / sum(weights) is estimated.
        confidence: between 0 and 1.
        resamples: how many times to draw.
        seed: seed of the draws.

    Raises:
        UserError: no items, values that are not finite, weights that are not above 0, a confidence out of range, or
            no resamples.
    """
    numerator = np.asarray(values, dtype=np.float64)
    denominator = np.ones_like(numerator) if weights is None else np.asarray(weights, dtype=np.float64)
    if numerator.ndim != 1 or len(numerator) == 0 or numerator.shape != denominator.shape:
        raise UserError(f"the bootstrap needs one value an item, got shapes {numerator.shape}, {denominator.shape}")
    if not np.isfinite(numerator).all() or not (denominator > 0).all():
        raise UserError("the bootstrap needs finite values, and weights above 0")
    if resamples < 1:
        raise UserError(f"the bootstrap needs at least one resample, got {resamples}")
    if not 0 < confidence < 1:
        raise UserError(f"the confidence must be between 0 and 1, got {confidence}")
    means = _resampled_ratios(numerator, denominator, resamples, seed)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(numerator.sum() / denominator.sum()), float(low), float(high))


def _resampled_ratios(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64], resamples: int, seed: int
) -> NDArray[np.float64]:
    rng, items = np.random.default_rng(seed), len(numerator)
    block = max(1, _BLOCK // items)
    parts = []
    for start in range(0, resamples, block):
        drawn = rng.integers(items, size=(min(block, resamples - start), items))
        parts.append(numerator[drawn].sum(axis=1) / denominator[drawn].sum(axis=1))
    return np.concatenate(parts)


@dataclass(frozen=True)
class PairedComparison:
    """Model A compared with model B on the same items.

    Args:
        difference: mean of A - B with its bootstrap interval.
        p_value: probability of a mean difference at least as large if the two models were exchangeable.
        items: how many items.
    """

    difference: Interval
    p_value: float
    items: int


def compare_paired(a: ArrayLike, b: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> PairedComparison:
    """Whether A and B differ on average, from their values on the same items.

    The test is a permutation test (Fisher, 1935). If the two models were equal, then each value of a pair could
    have come from either model. So flip the sign of each difference at random, and count how often the mean is at
    least as far from zero. The observed arrangement counts as one of them, so the p-value is never 0.

    Args:
        a: (items,) a value for each item, such as 0 or 1, or bits.
        b: (items,) the other model's values, in the same order.
        resamples: how many random arrangements.
        seed: seed of the draws.

    Raises:
        UserError: the two differ in length, are empty or not finite, or there are no resamples.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or len(first) == 0:
        raise UserError(f"a paired test needs two equally long lists, got shapes {first.shape} and {second.shape}")
    if resamples < 1 or not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise UserError(f"a paired test needs finite values and at least one resample, got {resamples} resamples")
    differences = first - second
    observed = abs(differences.mean())
    rng, items = np.random.default_rng(seed), len(differences)
    block, at_least = max(1, _BLOCK // items), 1
    for start in range(0, resamples, block):
        signs = rng.integers(0, 2, size=(min(block, resamples - start), items)) * 2 - 1
        # A small tolerance, because sums in another order differ in their last bits.
        at_least += int((np.abs(signs @ differences) / items >= observed * (1 - 1e-12)).sum())
    return PairedComparison(bootstrap_interval(differences, seed=seed), at_least / (resamples + 1), items)


def mcnemar_p_value(a: ArrayLike, b: ArrayLike) -> float:
    """Exact two-sided test for answers that are right or wrong (McNemar, 1947).

    Only the questions that exactly one model answers correctly carry information. If the models were equal, each of
    these questions would go to one model or the other like the toss of a coin.

    Args:
        a: (items,) 0 or 1.
        b: (items,) 0 or 1, from the other model.

    Raises:
        UserError: the two differ in length or are empty, or hold something else than 0 and 1.

    >>> mcnemar_p_value([1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0])  # 2 / 2⁶
    0.03125
    """
    first, second = np.asarray(a), np.asarray(b)
    if first.ndim != 1 or first.shape != second.shape or len(first) == 0:
        raise UserError(f"a paired test needs two equally long lists, got shapes {first.shape} and {second.shape}")
    if not np.isin([first, second], (0, 1)).all():
        raise UserError("McNemar's test is for answers that are right or wrong: give 0 or 1 for each")
    first, second = first.astype(bool), second.astype(bool)
    only_a, only_b = int((first & ~second).sum()), int((second & ~first).sum())
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**n)


def questions_needed(difference: float, accuracy: float = 0.5) -> int:
    """How many questions each of two models must be asked, all different, to see a difference in 8 of 10 trials.

    This is the usual normal approximation for two proportions at 5 % significance and 80 % power.

    Args:
        difference: difference between the two accuracies, such as 0.02.
        accuracy: the accuracy that both are close to.

    Raises:
        UserError: a difference or an accuracy that is not between 0 and 1.

    >>> questions_needed(0.02)
    9812
    """
    for name, share in (("difference", difference), ("accuracy", accuracy)):
        if not 0 < share < 1:
            raise UserError(f"the {name} must be between 0 and 1, got {share}")
    return math.ceil((1.959964 + 0.841621) ** 2 * 2 * accuracy * (1 - accuracy) / difference**2)
