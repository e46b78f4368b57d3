"""Exercise 8.3: Is a model as sure as it is right?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evaluation.calibration import Calibration


def calibrate(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = 15) -> Calibration:
    """Sort predictions into bins by confidence; compare the mean confidence with the share that was right.

    Bins have equal width from 0 to 1, and a bin includes its upper edge: with 10 bins, 0.2 is in the second, from 0.1 to
    0.2. A confidence of 0 is in the first bin.

    Args:
        confidence: (predictions,) probability of the most likely answer.
        correct: (predictions,) whether it was right.
        bins: how many bins.

    Returns:
        Calibration(counts, confidence, accuracy), each (bins,): the number of predictions (integers), the mean of their
        confidence, and the share of right ones. The last two are 0 in an empty bin. `expected_error` is computed from these.
    """
    raise NotImplementedError("Exercise 8.3: bins of confidence")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def _with_error(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    assert isinstance(result, Calibration), f"expected a Calibration, got {type(result).__name__}"
    return {
        "counts": np.asarray(result.counts),
        "confidence": np.asarray(result.confidence),
        "accuracy": np.asarray(result.accuracy),
        "expected_error": result.expected_error,
    }


def cases() -> Iterator[Case]:
    """One bin; several; edges; many; one bin for all; the number of bins that is the default."""

    def question(what: str, confidence: Sequence[float], correct: Sequence[bool], bins: int) -> Case:
        return Case(what, [np.array(confidence), np.array(correct, dtype=bool), bins], observe=_with_error)

    yield question("five predictions at 0.8, four of them right", [0.8] * 5, [True] * 4 + [False], 5)
    yield question("three bins, one of them empty", [0.1, 0.2, 0.9, 0.95], [False, True, True, True], 3)
    yield question("on the edges: 0, 0.5 and 1 in two bins", [0.0, 0.5, 1.0], [False, False, True], 2)
    yield question("0.2, 0.5 and 0.72 in ten bins", [0.2, 0.5, 0.72], [True, False, True], 10)
    yield question("nearly 0, and nearly 1, in three bins", [1e-9, 1 - 1e-9], [True, False], 3)
    yield question("one bin", [0.0, 0.3, 1.0], [True, False, True], 1)
    rng = np.random.default_rng(0)
    many = rng.uniform(size=500)
    yield question("500 predictions in 15 bins", many.tolist(), (rng.uniform(size=500) < many**2).tolist(), 15)


def _calibrate(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int, **wrong: bool) -> Calibration:
    if wrong.get("lower_edge"):
        where = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    else:
        where = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    if wrong.get("rounded"):
        where = np.clip(np.rint(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    if wrong.get("zero_last"):
        where = np.where(confidence == 0, bins - 1, where)
    if wrong.get("zero_negative"):
        where = np.where(confidence == 0, -1, where)
    if wrong.get("zero_lost"):
        where, correct, confidence = where[confidence > 0], correct[confidence > 0], confidence[confidence > 0]
    if wrong.get("equal_counts"):
        where = np.argsort(np.argsort(confidence, kind="stable"), kind="stable") * bins // len(confidence)
    if wrong.get("both_edges"):
        again = np.flatnonzero((confidence * bins == np.rint(confidence * bins)) & (confidence > 0) & (confidence < 1))
        where = np.concatenate([where, where[again] + 1])
        confidence, correct = np.concatenate([confidence, confidence[again]]), np.concatenate([correct, correct[again]])
    counts = np.bincount(where, minlength=bins)
    divisor = np.ones(bins) if wrong.get("summed") else counts if wrong.get("nan") else np.maximum(counts, 1)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(where, weights=confidence, minlength=bins) / divisor
        accuracy = np.bincount(where, weights=correct.astype(np.float64), minlength=bins) / divisor
    if wrong.get("whole"):
        accuracy = np.where(counts > 0, correct.mean(), 0.0)
    if wrong.get("float_counts"):
        return Calibration(counts.astype(np.float64), mean, accuracy)
    if wrong.get("centres"):
        mean = np.where(counts > 0, (np.arange(bins) + 0.5) / bins, 0.0)
    return Calibration(counts, mean, accuracy)


def _mistaken(name: str) -> Callable[..., Any]:
    def calibrate(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = 15) -> Calibration:
        return _calibrate(confidence, correct, bins, **{name: True})

    return calibrate


EXERCISE = Exercise(
    stub=calibrate,
    reference="evaluation.calibration:calibrate",
    cases=cases,
    hints=(
        "For each prediction, find the number of its bin. The rest is counting.",
        "np.ceil(confidence * bins) - 1 gives bins that include their upper edge; only 0 must be moved up into the first. "
        "np.bincount(where, weights=…, minlength=bins) sums in each bin.",
        "where = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1); counts = np.bincount(where, "
        "minlength=bins); the sums are divided by np.maximum(counts, 1).",
    ),
    mistakes=(
        Mistake(
            _mistaken("summed"),
            "these are a mean of the confidence and a share of right ones: divide by the count of the bin",
        ),
        Mistake(_mistaken("centres"), "take the mean of the predictions' confidence, not the middle of the bin"),
        Mistake(_mistaken("nan"), "an empty bin has confidence and accuracy 0: do not divide by 0"),
        Mistake(_mistaken("lower_edge"), "a bin includes its upper edge, not its lower edge"),
        Mistake(_mistaken("zero_last"), "a confidence of 0 is in the first bin, but index -1 is the last"),
        Mistake(_mistaken("zero_negative"), "a confidence of 0 is in the first bin, not in bin -1"),
        Mistake(
            _mistaken("zero_lost"), "a confidence of 0 is in the first bin, though it is not above the bin's lower edge"
        ),
        Mistake(_mistaken("both_edges"), "a prediction on an edge is in one bin, the lower one; here it is in two"),
        Mistake(_mistaken("rounded"), "the bin is rounded up, not to the nearest: 0.72 is in the eighth of ten"),
        Mistake(_mistaken("whole"), "the accuracy is that of each bin, not of all predictions"),
        Mistake(_mistaken("float_counts"), "counts are integers"),
        Mistake(_mistaken("equal_counts"), "bins have equal width, not equal counts"),
    ),
)
