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
        seed: the seed of the draws. You may draw in any way: the interval is compared with a tolerance.

    Returns:
        Interval(estimate, low, high); the estimate is that of the items themselves.
    """
    raise NotImplementedError("Exercise 8.4: draw from the sample, again and again")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """Answers; another confidence; a ratio; one item; reproducible."""
    rng = np.random.default_rng(5)
    answers = (rng.uniform(size=200) < 0.7).astype(np.float64)
    yield Case("200 questions, about 70 % right", [answers], tolerance=0.006)
    yield Case("the same with a confidence of 0.5", [answers.copy(), None, 0.5], tolerance=0.006)
    size = rng.integers(10, 1000, 100).astype(np.float64)
    bits = size * rng.normal(2.0, 0.4, 100)
    yield Case("100 documents, bits per byte", [bits, size], tolerance=0.01)
    yield Case("all values equal", [np.full(30, 0.5), None, 0.95, 100], tolerance=1e-9)


def _interval(
    values: ArrayLike, weights: ArrayLike | None, confidence: float, resamples: int, seed: int, **wrong: bool
) -> Interval:
    a = np.asarray(values, dtype=np.float64)
    b = np.ones_like(a) if weights is None or wrong.get("no_weights") else np.asarray(weights, dtype=np.float64)
    rng = np.random.default_rng(seed)
    size = len(a) // 2 if wrong.get("half") else len(a)
    means = []
    for _ in range(min(resamples, 2000)):
        drawn = rng.permutation(len(a))[:size] if wrong.get("no_repetition") else rng.integers(len(a), size=size)
        if wrong.get("mean_of_ratios"):
            means.append((a[drawn] / b[drawn]).mean())
        elif wrong.get("weights_not_drawn"):
            means.append(a[drawn].sum() / b[:size].sum())
        else:
            means.append(a[drawn].sum() / b[drawn].sum())
    tail = (1 - confidence) if wrong.get("one_sided") else (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    estimate = (a / b).mean() if wrong.get("mean_of_ratios") else a.sum() / b.sum()
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
    ),
)
