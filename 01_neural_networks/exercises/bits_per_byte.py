"""Exercise 1.2: Bits per byte, the measure of this project."""

from __future__ import annotations

import math


def bits_per_byte(total_nats: float, num_bytes: int) -> float:
    """What a text costs, in bits for each of its bytes.

    If a model gives a symbol the probability p, the symbol costs -ln p nats, or -log₂ p bits. As ln p = ln 2 · log₂ p,

        bits per byte = total nats / ln 2 / bytes of text

    Args:
        total_nats: sum of -ln p over every symbol of the text.
        num_bytes: size of the text.

    Raises:
        ValueError: `num_bytes` is not positive.

    >>> round(bits_per_byte(total_nats=math.log(256) * 10, num_bytes=10), 3)  # a uniform guess among 256
    8.0
    """
    raise NotImplementedError("Exercise 1.2: turn nats into bits per byte")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """A uniform guess, a certain guess, a text, one byte, no text, and less than none."""
    yield Case("ten bytes, each a uniform guess among 256: 8 bits", [math.log(256) * 10, 10], expected=8.0)
    yield Case("a text that was predicted with certainty", [0.0, 7])
    yield Case("1,000 bytes that cost 1,065 nats", [1065.0, 1000])
    yield Case("one byte", [1.0, 1])
    yield Case("no text at all: a ValueError with a line that says so", [1.0, 0], raises=ValueError)
    yield Case("-1 bytes: a ValueError too", [1.0, -1], raises=ValueError)


def _nats(total_nats: float, num_bytes: int) -> float:
    return total_nats / num_bytes


def _multiplied(total_nats: float, num_bytes: int) -> float:
    return total_nats * math.log(2) / num_bytes


def _perplexity(total_nats: float, num_bytes: int) -> float:
    return math.exp(total_nats / num_bytes)


def _unchecked(total_nats: float, num_bytes: int) -> float:
    return total_nats / math.log(2) / num_bytes if num_bytes else 0.0


EXERCISE = Exercise(
    stub=bits_per_byte,
    reference="neural_networks.bits_per_byte:bits_per_byte",
    cases=cases,
    hints=(
        "Two units have to be changed: nats into bits, and the whole text into one byte.",
        "A bit is a choice between two: it costs ln 2 = 0.693 nats. So there are more bits than nats.",
        "total_nats / math.log(2) / num_bytes, after a check that num_bytes is above 0.",
    ),
    mistakes=(
        Mistake(_nats, "this is nats per byte: divide by ln 2 to get bits"),
        Mistake(_multiplied, "a bit is ln 2 nats, so nats are divided by ln 2, not multiplied"),
        Mistake(_unchecked, "a text without bytes has no bits per byte: raise a ValueError"),
        Mistake(_perplexity, "this is a perplexity, exp of the mean; bits per byte needs no exponential"),
    ),
)
