"""Exercise 8.5: Two models, the same questions: McNemar's test."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def mcnemar_p_value(a: ArrayLike, b: ArrayLike) -> float:
    """Exact two-sided test for answers that are right or wrong (McNemar, 1947).

    Only questions that one model answers and the other does not are informative. Say there are n of them. If the models
    were equally good, each of these questions would be like a throw of a coin. With k the smaller of the two counts,

        p = 2 · (probability of at most k heads in n throws) = 2 · Σ_{i ≤ k} C(n, i) / 2ⁿ,   at most 1

    Args:
        a: (items,) 0 or 1.
        b: (items,) 0 or 1, of the other model, for the same questions.

    >>> mcnemar_p_value([1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0])  # 2 / 2⁶
    0.03125
    """
    raise NotImplementedError("Exercise 8.5: only where they differ")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """One-sided; mixed; equal; symmetric; many; other types of numbers."""
    yield Case("six questions that only the first answers", [[1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
    rest = [1] * 20 + [0] * 5
    yield Case(
        "six to two; twenty that both answer, five that neither answers",
        [[1] * 6 + [0] * 2 + rest, [0] * 6 + [1] * 2 + rest],
    )
    yield Case("two to six: the models are exchanged", [[1] * 2 + [0] * 6, [0] * 2 + [1] * 6])
    yield Case("the same answers", [[1, 0, 1], [1, 0, 1]])
    yield Case("one to one", [[1, 0], [0, 1]])
    six_to_two = [1] * 6 + [0] * 2 + [1], [0] * 6 + [1] * 2 + [1]
    yield Case("booleans, six to two", [np.array(answers, dtype=bool) for answers in six_to_two])
    yield Case("unsigned bytes, six to two", [np.array(answers, dtype=np.uint8) for answers in six_to_two])
    yield Case("floats, six to two", [np.array(answers, dtype=np.float64) for answers in six_to_two])
    yield Case("none to one", [[0, 1], [1, 1]])
    yield Case("700 to 640", [[1] * 700 + [0] * 640, [0] * 700 + [1] * 640], tolerance=1e-9)


def _p_value(a: ArrayLike, b: ArrayLike, **wrong: bool) -> float:
    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    only_a, only_b = int((first & ~second).sum()), int((second & ~first).sum())
    n = len(first) if wrong.get("all_questions") else only_a + only_b
    k = only_b if wrong.get("not_the_smaller") else min(only_a, only_b)
    tail = sum(math.comb(n, i) for i in range(k if wrong.get("less_than") else k + 1))
    if wrong.get("subtracted"):
        difference = np.asarray(a) - np.asarray(b)
        only_a, only_b = int((difference == 1).sum()), int((difference == -1).sum())
        n, k = only_a + only_b, min(only_a, only_b)
        tail = sum(math.comb(n, i) for i in range(k + 1))
    if wrong.get("bits"):
        x, y = np.asarray(a), np.asarray(b)
        return _p_value(x & ~y & 1, y & ~x & 1)
    if wrong.get("unsigned"):
        difference = np.asarray(a) * 1 - np.asarray(b) * 1
        return _p_value((difference == 1).astype(int), (difference == -1).astype(int))
    if wrong.get("mid"):
        return min(1.0, (2 * tail - math.comb(n, k)) / 2**n)
    if wrong.get("chi_squared"):
        return math.erfc(math.sqrt((only_a - only_b) ** 2 / (2 * n))) if n else 1.0
    if wrong.get("float_power"):
        return min(1.0, 2 * tail * 0.5**n)
    p = (1 if wrong.get("one_sided") else 2) * tail / 2**n
    return p if wrong.get("above_one") else min(1.0, p)


def _mistaken(name: str) -> Callable[..., Any]:
    def mcnemar_p_value(a: ArrayLike, b: ArrayLike) -> float:
        return _p_value(a, b, **{name: True})

    return mcnemar_p_value


EXERCISE = Exercise(
    stub=mcnemar_p_value,
    reference="evaluation.significance:mcnemar_p_value",
    cases=cases,
    hints=(
        "Count two things: questions that only a answers, and questions that only b answers.",
        "With boolean arrays: (a & ~b).sum() and (b & ~a).sum(). math.comb(n, i) is exact for numbers of any size. Divide the "
        "whole numbers last, since 2ⁿ does not fit a float for n above 1,023.",
        "tail = sum(math.comb(n, i) for i in range(min(only_a, only_b) + 1)); return min(1.0, 2 * tail / 2**n).",
    ),
    mistakes=(
        Mistake(
            _mistaken("one_sided"),
            "the test is two-sided: either model might have been better, so the tail counts twice",
        ),
        Mistake(_mistaken("less_than"), "at most k heads includes k heads"),
        Mistake(_mistaken("all_questions"), "n counts only the questions on which the models differ"),
        Mistake(_mistaken("not_the_smaller"), "k is the smaller of the two counts"),
        Mistake(_mistaken("mid"), "at most k heads includes all of the throws with k heads, not half of them"),
        Mistake(_mistaken("chi_squared"), "this is the approximation for large n: the exact sum is asked for"),
        Mistake(_mistaken("subtracted"), "a - b is refused for booleans: use (a == 1) & (b == 0)"),
        Mistake(_mistaken("unsigned"), "0 - 1 is 255 in unsigned bytes: use (a == 1) & (b == 0)"),
        Mistake(_mistaken("bits"), "& and ~ are refused for floats: make booleans first, by == 1"),
        Mistake(_mistaken("above_one"), "a probability is at most 1"),
        Mistake(_mistaken("float_power"), "0.5ⁿ is 0 for large n: divide whole numbers, 2 * tail / 2**n"),
    ),
)
