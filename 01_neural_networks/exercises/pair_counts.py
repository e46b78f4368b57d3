"""Exercise 1.1: Count pairs of bytes.

This is the simplest model of language that looks back: how often does each byte follow each other byte?
"""

from __future__ import annotations

import numpy as np

from neural_networks.broadcasting import Array


def pair_counts(stream: Array) -> Array:
    """(256, 256): how often each byte (row) is followed by each byte (column).

    A text of n bytes has n - 1 pairs, which overlap: "aba" has "ab" and "ba".

    Args:
        stream: (length,) uint8, the text.

    >>> int(pair_counts(np.frombuffer(b"abab", dtype=np.uint8))[97, 98])
    2
    """
    raise NotImplementedError("Exercise 1.1: count the pairs of neighbouring bytes")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """Two letters; a text; every byte; next to nothing; counts that a small integer cannot hold."""
    yield Case("the text 'abab'", [np.frombuffer(b"abab", dtype=np.uint8)])
    yield Case("three times the same letter", [np.frombuffer(b"aaa", dtype=np.uint8)])
    text = b"the cat sat on the mat, and the rat sat on the cat. "
    yield Case("a sentence", [np.frombuffer(text, dtype=np.uint8)])
    every_byte = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8)
    yield Case("5,000 random bytes, up to 255", [every_byte])
    yield Case("a single byte, which has no pair", [np.array([7], dtype=np.uint8)])
    yield Case("a text without bytes", [np.array([], dtype=np.uint8)])
    yield Case("70,000 times the same letter", [np.full(70_000, 97, dtype=np.uint8)])


def _transposed(stream: Array) -> Array:
    counts = np.zeros((256, 256), dtype=np.int64)
    np.add.at(counts, (stream[1:], stream[:-1]), 1)
    return counts


def _assigned(stream: Array) -> Array:
    counts = np.zeros((256, 256), dtype=np.int64)
    counts[stream[:-1], stream[1:]] += 1
    return counts


def _without_overlap(stream: Array) -> Array:
    counts = np.zeros((256, 256), dtype=np.int64)
    pairs = stream[: len(stream) // 2 * 2].reshape(-1, 2)
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
    return counts


def _overflowing(stream: Array) -> Array:
    pairs = stream[:-1] * np.uint8(0) + stream[1:]  # 256 · a wraps round to 0 in uint8
    return np.bincount(pairs, minlength=256**2).reshape(256, 256)


EXERCISE = Exercise(
    stub=pair_counts,
    reference="neural_networks.ngram:pair_counts",
    cases=cases,
    hints=(
        "A loop over the neighbours stream[:-1] and stream[1:] is a good start. Which byte is the row, which the column?",
        "Each pair (a, b) can have the number 256 · a + b. Then the table is a histogram of these numbers; NumPy has "
        "np.bincount for that. Another way is np.add.at, which adds once for every repetition of an index.",
        "pairs = stream[:-1].astype(np.int64) * 256 + stream[1:], then np.bincount(pairs, minlength=65536), reshaped.",
    ),
    mistakes=(
        Mistake(_transposed, "rows and columns are exchanged: the row is the byte that comes first"),
        Mistake(
            _assigned,
            "counts[rows, columns] += 1 adds 1 once for each different pair, however often it occurs; np.add.at "
            "adds 1 for every occurrence",
        ),
        Mistake(_without_overlap, "pairs overlap: every byte but the last begins one"),
        Mistake(_overflowing, "the numbers of pairs overflow: uint8 holds 0 to 255, so convert to int64 first"),
    ),
)
