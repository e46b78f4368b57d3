"""Exercise 8.4: How far off might it be? The bootstrap."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from evaluation.significance import RESAMPLES, Interval


def bootstrap_interval(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of a mean or ratio (Efron, 1979).

    Draw as many items as there are, with repetition, and compute sum(values) / sum(weights) of the drawn items. Do this
    `resamples` times. The interval goes from the quantile (1 - confidence) / 2 of these to the quantile (1 + confidence) / 2.

    Args:
        values: (items,) such as 0 or 1 for each question, or the bits that each document costs.
        weights: (items,) such as the documents' bytes; None for 1 each. An item keeps its weight when it is drawn.
        confidence: between 0 and 1.
        resamples: how many samples to draw; watch the memory, because items · resamples may be large.
        seed: the seed of the draws: the same seed gives the same interval. You may draw in any way. The questions are such
            that every way of drawing gives the same interval.

    Returns:
        Interval(estimate, low, high); the estimate is that of the items themselves.
    """
    raise NotImplementedError("Exercise 8.4: draw from the sample, again and again")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import Any

from learn.exercise import Case, Exercise, Mistake, Observe


def _same_ends(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    return {"estimate": result.estimate, "low and high are the same": result.low == result.high}


def _compared_with(earlier: list[tuple[float, float]]) -> Observe:
    """Say whether the interval is the one of the earlier question, and keep it if there is none."""

    def observe(result: Any, arguments: Sequence[Any]) -> dict[str, bool]:
        ends = (result.low, result.high)
        if not earlier:
            earlier.append(ends)
        return {"the interval of the question before": earlier[0] == ends}

    return observe


def cases() -> Iterator[Case]:
    """Answers; another confidence; a ratio; equal values; how many resamples; the seed."""
    # Few items, of two kinds: a mean can only be k / n, and each end of the interval is one of these, far (10 standard
    # deviations of the draws) from the point where it would become the next one. So no seed changes the interval.
    yield Case("9 questions, 5 right", [np.repeat([1.0, 0.0], [5, 4])], tolerance=1e-9)
    yield Case("16 questions, 14 right", [np.repeat([1.0, 0.0], [14, 2])], tolerance=1e-9)
    yield Case("10 questions, 7 right, a confidence of 0.6", [np.repeat([1.0, 0.0], [7, 3]), None, 0.6], tolerance=1e-9)
    yield Case("10 questions in a list", [[1] * 7 + [0] * 3, None, 0.6], tolerance=1e-9)
    bits, size = np.repeat([300.0, 800.0], [5, 4]), np.repeat([100.0, 400.0], [5, 4])
    yield Case("5 documents of 300 bits, 100 bytes; 4 of 800 bits, 400 bytes", [bits, size], tolerance=1e-9)
    yield Case("all values equal", [np.full(30, 0.5), None, 0.95, 100], tolerance=1e-9)
    different = np.arange(40.0) ** 1.5
    arguments = [different, None, 0.95, 1]
    one = {"estimate": different.mean().item(), "low and high are the same": True}
    yield Case("one resample, which is both ends", arguments, expected=one, observe=_same_ends)
    earlier: list[tuple[float, float]] = []
    for what, seed, same in (("seed 3", 3, True), ("seed 3 again", 3, True), ("seed 4", 4, False)):
        yield Case(
            f"40 different values, 25 resamples, {what}",
            [different.copy(), None, 0.95, 25, seed],
            expected={"the interval of the question before": same},
            observe=_compared_with(earlier),
        )


def _interval(
    values: ArrayLike, weights: ArrayLike | None, confidence: float, resamples: int, seed: int, **wrong: bool
) -> Interval:
    a = np.asarray(values, dtype=np.float64)
    b = np.ones_like(a) if weights is None or wrong.get("no_weights") else np.asarray(weights, dtype=np.float64)
    rng = np.random.default_rng(None if wrong.get("no_seed") else 0 if wrong.get("one_seed") else seed)
    size = len(a) // 2 if wrong.get("half") else len(a)
    means = []
    for _ in range(2000 if wrong.get("fixed_number") else min(resamples, 2000)):
        drawn = rng.permutation(len(a))[:size] if wrong.get("no_repetition") else rng.integers(len(a), size=size)
        if wrong.get("mean_of_ratios"):
            means.append((a[drawn] / b[drawn]).mean())
        elif wrong.get("weights_not_drawn"):
            means.append(a[drawn].sum() / b[:size].sum())
        elif wrong.get("drawn_apart"):
            means.append(a[drawn].sum() / b[rng.integers(len(a), size=size)].sum())
        else:
            means.append(a[drawn].sum() / b[drawn].sum())
    tail = (1 - confidence) if wrong.get("one_sided") else (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    estimate = (a / b).mean() if wrong.get("mean_of_ratios") else a.sum() / b.sum()
    if wrong.get("of_the_draws"):
        estimate = np.mean(means)
    if wrong.get("normal"):
        reach = NormalDist().inv_cdf((1 + confidence) / 2) * np.std(means)
        low, high = estimate - reach, estimate + reach
    if wrong.get("mirrored"):
        low, high = 2 * estimate - high, 2 * estimate - low
    return Interval(float(estimate), float(low), float(high))


def _mistaken(name: str) -> Callable[..., Any]:
    def bootstrap_interval(
        values: ArrayLike,
        weights: ArrayLike | None = None,
        confidence: float = 0.95,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> Interval:
        return _interval(values, weights, confidence, resamples, seed, **{name: True})

    return bootstrap_interval


EXERCISE = Exercise(
    stub=bootstrap_interval,
    reference="evaluation.significance:bootstrap_interval",
    cases=cases,
    hints=(
        "To draw an item is to draw its index; the same indices pick values and weights.",
        "rng.integers(items, size=(resamples, items)) draws everything at once; for many items, in a loop over parts. "
        "np.quantile takes both quantiles.",
        "drawn = rng.integers(n, size=(resamples, n)); means = values[drawn].sum(1) / weights[drawn].sum(1); low, high = "
        "np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2]).",
    ),
    mistakes=(
        Mistake(
            _mistaken("no_repetition"), "items are drawn with repetition; without repetition every sample is the same"
        ),
        Mistake(_mistaken("half"), "draw as many items as there are; otherwise the interval has another width"),
        Mistake(_mistaken("one_sided"), "half of what is left out is on each side: (1 - confidence) / 2"),
        Mistake(_mistaken("no_weights"), "with weights the estimate is sum(values) / sum(weights)"),
        Mistake(_mistaken("mean_of_ratios"), "use a ratio of sums, not a mean of ratios: long documents count more"),
        Mistake(_mistaken("weights_not_drawn"), "an item keeps its weight when it is drawn"),
        Mistake(_mistaken("drawn_apart"), "values and weights are drawn by the same indices: an item keeps its weight"),
        Mistake(
            _mistaken("normal"),
            "the ends are quantiles of the resampled means; ± 1.96 standard deviations supposes a normal distribution",
        ),
        Mistake(
            _mistaken("mirrored"), "low is the lower quantile itself: the interval is not mirrored at the estimate"
        ),
        Mistake(_mistaken("of_the_draws"), "the estimate is that of the items themselves, not the mean of the draws"),
        Mistake(_mistaken("fixed_number"), "draw `resamples` times, not a number of times of your own"),
        Mistake(
            _mistaken("no_seed"),
            "draw with a generator made from `seed`, so that the same seed gives the same interval",
        ),
        Mistake(
            _mistaken("one_seed"), "draw with a generator made from `seed`; here every seed gives the same interval"
        ),
    ),
)
