"""Calibration: when a model says 70 %, is it right 70 times in 100?

Predictions are sorted into bins by the probability of the most likely answer. In each bin, the mean
probability (confidence) is compared with the share that was right (accuracy). The expected calibration
error is the mean gap, weighted by the number of predictions in a bin (Guo et al., 2017: "On Calibration of
Modern Neural Networks"):

    ECE = Σ over bins of  n_bin / n · |accuracy - confidence|

A language model that was trained on enough text is well calibrated on tokens, because cross-entropy is lowest for
the true probabilities. Little data, many epochs or fine-tuning on preferences make it overconfident.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from groundwork.user_errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Calibration:
    """Bins of equal width over the confidence from 0 to 1. Empty bins have confidence and accuracy 0.

    Args:
        counts: (bins,) number of predictions.
        confidence: (bins,) mean probability that the model gave its answer.
        accuracy: (bins,) share of right answers.
    """

    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def expected_error(self) -> float:
        """The ECE, between 0 and 1."""
        return float(np.abs(self.accuracy - self.confidence) @ self.counts / self.counts.sum())


def calibrate(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = 15) -> Calibration:
    """Compare how sure a model was with how often it was right.

    Args:
        confidence: (predictions,) probability of the answer that was most likely.
        correct: (predictions,) whether it was right.
        bins: how many bins of equal width; a bin includes its upper edge.

    Raises:
        UserError: no predictions, no bins, not one answer a prediction, or a confidence that is not a probability.

    >>> calibrate(np.array([0.8, 0.8, 0.8, 0.8, 0.8]), np.array([1, 1, 1, 1, 0], bool)).expected_error
    0.0
    """
    if len(confidence) == 0 or bins < 1:
        raise UserError(f"calibration needs predictions and bins, got {len(confidence)} and {bins}")
    confidence, correct = np.asarray(confidence), np.asarray(correct)
    if confidence.ndim != 1 or confidence.shape != correct.shape:
        raise UserError(f"each prediction needs one answer, got shapes {confidence.shape} and {correct.shape}")
    if not 0.0 <= confidence.min() <= confidence.max() <= 1.0:  # also false for nan
        raise UserError(f"confidence must be between 0 and 1, got {confidence.min()} to {confidence.max()}")
    where = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(where, minlength=bins)
    divisor = np.maximum(counts, 1)
    return Calibration(
        counts,
        np.bincount(where, weights=confidence, minlength=bins) / divisor,
        np.bincount(where, weights=correct.astype(bool).astype(np.float64), minlength=bins) / divisor,
    )


def draw_reliability(axes: Axes, calibration: Calibration) -> None:
    """Draw accuracy against confidence. On the diagonal the model is calibrated, below it the model is overconfident.

    Args:
        axes: the axes to draw in.
        calibration: what to draw.
    """
    bins = len(calibration.counts)
    centres = (np.arange(bins) + 0.5) / bins
    filled = calibration.counts > 0
    axes.bar(centres[filled], calibration.accuracy[filled], width=0.9 / bins, alpha=0.7, label="accuracy")
    axes.plot(calibration.confidence[filled], calibration.accuracy[filled], "o", color="C3", markersize=4)
    axes.plot([0, 1], [0, 1], "--", color="0.4", linewidth=1, label="perfect")
    shares = calibration.counts / calibration.counts.sum()
    axes.bar(centres, shares, width=0.9 / bins, color="0.2", alpha=0.35, label="share of predictions")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
    axes.set_title(f"ECE {calibration.expected_error:.3f}")
    axes.legend()
