"""Language models by counting: the unigram and the bigram.

The unigram gives each byte its share of the training text. The bigram looks at the byte before:

    p(b | a) = (count(a b) + s) / (count(a) + 256 s)

With s = 0 this is the maximum likelihood estimate: no other table gives the training text a higher
probability. But a pair that does not occur in the training text gets the probability 0, and a single
such pair in the held-out text then costs infinitely many bits. Laplace's rule adds s = 1 to every
count. It is simple, and `kneser_ney` does better.
"""

from __future__ import annotations

import numpy as np

from neural_networks.broadcasting import Array
from neural_networks.byte_models import NUM_BYTES, as_stream


def _nats(counts_in_text: Array, probabilities: Array) -> float:
    """Sum of -ln p, each as often as it occurs. What does not occur costs nothing, even if its p is 0."""
    occurs = counts_in_text > 0
    with np.errstate(divide="ignore"):  # ln 0 is -inf, and an infinite cost is the right answer
        return -float(counts_in_text[occurs] @ np.log(probabilities[occurs]))


def _require_smoothing(smoothing: float) -> None:
    if not smoothing >= 0:
        raise ValueError(f"the smoothing must not be negative, got {smoothing}")


def pair_counts(stream: Array) -> Array:
    """(256, 256): how often each byte (row) is followed by each byte (column).

    >>> int(pair_counts(np.frombuffer(b"abab", dtype=np.uint8))[97, 98])
    2
    """
    stream = as_stream(stream)
    pairs = stream[:-1].astype(np.int64) * NUM_BYTES + stream[1:]
    return np.bincount(pairs, minlength=NUM_BYTES**2).reshape(NUM_BYTES, NUM_BYTES)


class UnigramModel:
    """Every byte gets its share of the training text as its probability, after any other byte.

    Args:
        stream: training text.
        smoothing: added to every count; 0 for the maximum likelihood estimate.
    """

    def __init__(self, stream: Array, smoothing: float = 1.0):
        _require_smoothing(smoothing)
        counts = np.bincount(as_stream(stream)[1:], minlength=NUM_BYTES) + smoothing
        self.probabilities = counts / counts.sum()

    def total_nats(self, stream: Array) -> float:
        """Sum of -ln p over stream[1:]."""
        return _nats(np.bincount(as_stream(stream)[1:], minlength=NUM_BYTES), self.probabilities)

    def next_byte_probabilities(self, stream: Array) -> Array:
        """(256,) the same probabilities after every stream."""
        return self.probabilities


class BigramModel:
    """Every byte gets its share of what followed the byte before it as its probability.

    Args:
        stream: training text.
        smoothing: added to the count of every pair; 0 for the maximum likelihood estimate. With 0, the
            rows of bytes that never occurred are NaN, not probabilities.
    """

    def __init__(self, stream: Array, smoothing: float = 1.0):
        _require_smoothing(smoothing)
        counts = pair_counts(stream) + smoothing
        with np.errstate(invalid="ignore"):
            self.probabilities = counts / counts.sum(axis=1, keepdims=True)  # (256 before, 256 next)

    def total_nats(self, stream: Array) -> float:
        """Sum of -ln p over stream[1:]."""
        return _nats(pair_counts(stream), self.probabilities)

    def next_byte_probabilities(self, stream: Array) -> Array:
        """(256,): the row of the last byte."""
        return self.probabilities[stream[-1]]
