"""Interpolated n-gram model with modified Kneser–Ney smoothing: the best that counting can do.

Each of its three ideas answers a failure of plain counts (Kneser and Ney, 1995; Chen and Goodman,
1998, whose "modified" form this is):

1. **Discount.** A count of 1 in the training text is worth less than 1 in new text, because there some
   pairs occur for the first time. Subtract D(c) from every count c.
2. **Interpolate.** What was subtracted goes to the same model with a context one byte shorter:

       p(w | a b) = (c(a b w) - D) / c(a b) + γ(a b) · p(w | b)

   where γ(a b) is the total of the discounts divided by c(a b), so that the probabilities sum to one.
   Below the model without context, every byte has the probability 1/256.
3. **Count contexts, not occurrences**, for the shorter models. "Francisco" is frequent but follows
   only "San". Where the longer context failed, it is not a likely word. So the c of a shorter n-gram
   is the number of *different* bytes that occur before it.

D depends on the order and on whether c is 1, 2, or 3 and more. It is estimated from n₁ … n₄, the number
of n-grams that were seen once … four times. With Y = n₁ / (n₁ + 2 n₂),

    D(1) = 1 - 2 Y n₂/n₁    D(2) = 2 - 3 Y n₃/n₂    D(3 and more) = 3 - 4 Y n₄/n₃
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neural_networks.broadcasting import Array
from neural_networks.byte_models import NUM_BYTES, context_windows, last_bytes

MAX_ORDER = 8  # as many bytes as fit into one 64-bit integer


class NGramError(ValueError):
    """An order that the model cannot have, or too little text."""


@dataclass(frozen=True)
class _Level:
    """What is known about n-grams of one length. An n-gram is an integer with its oldest byte in the highest place."""

    grams: Array  # (num_grams,) uint64, sorted, so that those of one context are next to each other
    shares: Array  # (num_grams,) (c - D(c)) / c(context)
    contexts: Array  # (num_contexts,) uint64, sorted: gram >> 8
    left_over: Array  # (num_contexts,) γ


class KneserNeyModel:
    """p(byte | the `order` - 1 bytes before it), interpolated down to the model without context.

    Args:
        stream: training text.
        order: length of the longest n-grams, from 1 to 8.

    Raises:
        NGramError: the order is out of range, or the stream has no byte to predict.
    """

    def __init__(self, stream: Array, order: int = 6):
        if not 1 <= order <= MAX_ORDER:
            raise NGramError(f"the order must be from 1 to {MAX_ORDER}, got {order}")
        if len(stream) < 2:
            raise NGramError("an n-gram model needs at least one byte of text to count")
        self.order = order
        levels = []
        grams, counts = np.unique(_pack(context_windows(stream, order)[:, -order:]), return_counts=True)
        for length in range(order, 0, -1):
            levels.append(_make_level(grams, counts))
            # Each different n-gram adds one different byte before the n-gram that is shorter by its oldest byte.
            grams, counts = np.unique(_shorten(grams, length - 1), return_counts=True)
        self._levels = levels[::-1]  # shortest first

    @property
    def num_grams(self) -> int:
        """How many n-grams of all lengths the model contains: its size."""
        return sum(len(level.grams) for level in self._levels)

    def total_nats(self, stream: Array) -> float:
        """Sum of -ln p over stream[1:]."""
        grams, counts = np.unique(
            _pack(context_windows(stream, self.order)[:, -self.order :]), return_counts=True
        )  # sorted look-ups are near one another in memory, and no n-gram is looked up twice
        return -float(counts @ np.log(self._probabilities(grams)))

    def next_byte_probabilities(self, stream: Array) -> Array:
        """(256,) probabilities of what follows the last order - 1 bytes."""
        context = np.append(last_bytes(stream, self.order - 1), np.uint8(0))
        return self._probabilities(_pack(context[None]) + np.arange(NUM_BYTES, dtype=np.uint64))

    def _probabilities(self, grams: Array) -> Array:
        """p(last byte | the others) for packed n-grams of the full order, all at once."""
        p = np.full(len(grams), 1 / NUM_BYTES)
        for length, level in enumerate(self._levels, start=1):
            shorter = _shorten(grams, length)
            # For a context that was never seen there is nothing to add: γ = 1 keeps p as it is.
            p *= _look_up(level.contexts, level.left_over, shorter >> np.uint64(8), otherwise=1.0)
            p += _look_up(level.grams, level.shares, shorter, otherwise=0.0)
        return p


def _pack(windows: Array) -> Array:
    """(count, length) bytes → (count,) integers."""
    packed = np.zeros(len(windows), dtype=np.uint64)
    for column in windows.T:
        packed = (packed << np.uint64(8)) | column
    return packed


def _shorten(grams: Array, length: int) -> Array:
    """The last `length` bytes of packed n-grams."""
    return grams & np.uint64(2 ** (8 * length) - 1)


def _make_level(grams: Array, counts: Array) -> _Level:
    discount = discounts(counts)[np.minimum(counts, 3)]
    contexts, starts = np.unique(grams >> np.uint64(8), return_index=True)
    totals = np.add.reduceat(counts, starts)
    num_followers = np.diff(np.append(starts, len(grams)))
    return _Level(
        grams,
        (counts - discount) / np.repeat(totals, num_followers),
        contexts,
        np.add.reduceat(discount, starts) / totals,
    )


def discounts(counts: Array) -> Array:
    """(4,) what to subtract from a count of 0, 1, 2, and 3 or more.

    Sometimes the formula cannot be used (for example if no n-gram was seen three times) or its result is
    not between 0 and the count. Then 0.5 is subtracted. Any discount in that range gives probabilities
    that sum to one, and a discount above 0 gives every byte a probability above 0.

    Args:
        counts: (num_grams,) how often each n-gram was seen, or in how many contexts.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6)
    y = n[1] / max(1, n[1] + 2 * n[2])
    result = np.zeros(4)
    for c in (1, 2, 3):
        estimate = c - (c + 1) * y * n[c + 1] / n[c] if n[c] else 0.0
        result[c] = estimate if 0 < estimate < c else 0.5
    return result


def _look_up(keys: Array, values: Array, wanted: Array, otherwise: float) -> Array:
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], otherwise)
