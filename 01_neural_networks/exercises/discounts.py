"""Exercise 1.3: Kneser–Ney discounts.

An n-gram that was seen once in the training text will be seen less than once, on average, in a new text of that
length. How much less follows from how many n-grams were seen once, twice and three times.
"""

from __future__ import annotations

import numpy as np

from neural_networks.broadcasting import Array


def discounts(counts: Array) -> Array:
    """What to subtract from a count of 0, 1, 2, and 3 or more (Chen and Goodman, 1998).

    Let n₁ … n₄ be the numbers of n-grams that were seen exactly once … four times, and Y = n₁ / (n₁ + 2 n₂):

        D(1) = 1 - 2 Y n₂/n₁    D(2) = 2 - 3 Y n₃/n₂    D(3 and more) = 3 - 4 Y n₄/n₃

    Nothing is subtracted from a count of 0. Where a D(c) cannot be computed (n_c is 0, or Y is 0/0) or does not lie
    strictly between 0 and c, it is 0.5.

    Args:
        counts: (num_grams,) integers, how often each n-gram was seen; all at least 1.

    Returns:
        (4,) float64: D(0), D(1), D(2), D(3 and more).

    >>> discounts(np.array([1, 1, 1, 1, 2, 2, 3, 4])).round(3).tolist()
    [0.0, 0.5, 1.25, 1.0]
    """
    raise NotImplementedError("Exercise 1.3: estimate the discounts")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """Counts by hand; counts as in a text; too few n-grams for the formula."""
    yield Case("4, 2, 1 and 1 n-grams seen once, twice, three and four times", [np.array([1, 1, 1, 1, 2, 2, 3, 4])])
    zipf = np.minimum(np.random.default_rng(0).zipf(1.8, 3000), 10_000)
    yield Case("3,000 n-grams with counts as in a text", [zipf])
    yield Case("all n-grams seen once: nothing is known about 2 and 3", [np.ones(5, dtype=np.int64)])
    yield Case("counts of 3, 3 and 5: nothing was seen once or twice, and Y is 0/0", [np.array([3, 3, 5])])
    yield Case("one n-gram seen once, one twice and two three times: D(2) is exactly 0", [np.array([1, 2, 3, 3])])
    yield Case("nothing seen four times: D(3 and more) is exactly 3", [np.array([1, 1, 1, 2, 3])])
    yield Case("one n-gram seen once and none twice: Y is 1", [np.array([1, 3, 3, 4])])
    yield Case("no n-grams at all", [np.array([], dtype=np.int64)])
    yield Case("an estimate that is not positive", [np.array([1, 2, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4])])


def _estimate(counts: Array, y_of: str = "right", guard: bool = True, three: str = "exactly") -> Array:
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(np.float64)
    n[3] = n[3:].sum() if three == "or more" else n[3]
    y = n[1] / max(1, n[1] + (2 * n[2] if y_of == "right" else n[2]))
    result = np.zeros(4)
    for c in (1, 2, 3):
        estimate = c - (c + 1) * y * n[c + 1] / n[c] if n[c] else 0.0
        result[c] = estimate if 0 < estimate < c or not guard else 0.5
    return result


def _unguarded(counts: Array) -> Array:
    return _estimate(counts, guard=False)


def _wrong_y(counts: Array) -> Array:
    return _estimate(counts, y_of="wrong")


def _distinct(counts: Array) -> Array:
    return _estimate(np.concatenate([np.full(count, count) for count in np.minimum(counts, 5)]))


def _three_or_more(counts: Array) -> Array:
    return _estimate(counts, three="or more")


def _undivided(counts: Array) -> Array:
    n1, n2 = (int((counts == count).sum()) for count in (1, 2))
    n1 / (n1 + 2 * n2)  # Python's integers raise an error when divided by 0
    return _estimate(counts)


def _clipped_at_four(counts: Array) -> Array:
    return _estimate(np.minimum(counts, 4))


EXERCISE = Exercise(
    stub=discounts,
    reference="neural_networks.kneser_ney:discounts",
    cases=cases,
    hints=(
        "First find n₁ to n₄: how many entries of `counts` equal 1, 2, 3, 4?",
        "np.bincount(np.minimum(counts, 5), minlength=6) has n₁ to n₄ at 1 to 4, and everything larger at 5. The three "
        "formulas are one: D(c) = c - (c + 1) Y n_{c+1} / n_c.",
        "In a loop over c = 1, 2, 3: estimate = c - (c + 1) * y * n[c + 1] / n[c] if n[c] else 0.0; take it if "
        "0 < estimate < c, otherwise 0.5.",
    ),
    mistakes=(
        Mistake(_unguarded, "an estimate outside 0 < D(c) < c must be replaced by 0.5"),
        Mistake(_wrong_y, "in Y, n₂ counts twice: Y = n₁ / (n₁ + 2 n₂)"),
        Mistake(
            _clipped_at_four,
            "n₄ is the number of n-grams seen exactly four times; those seen more often do not belong to it",
        ),
        Mistake(
            _three_or_more,
            "n₃ is the number of n-grams seen exactly three times; those seen more often do not belong to it",
        ),
        Mistake(_undivided, "Y is 0/0 where no n-gram was seen once or twice: every D(c) is 0.5 then"),
        Mistake(_distinct, "n₂ is the number of n-grams seen twice, each counted once, not their occurrences"),
    ),
)
