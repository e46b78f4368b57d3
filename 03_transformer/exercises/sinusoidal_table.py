"""Exercise 3.3: Sinusoidal positions."""

from __future__ import annotations

import torch
from torch import Tensor


def sinusoidal_table(context_length: int, d_model: int) -> Tensor:
    """The position vectors of the first transformer (Vaswani et al., 2017).

        PE[p, 2i]     = sin(p / 10000^(2i / d_model))
        PE[p, 2i + 1] = cos(p / 10000^(2i / d_model))

    Args:
        context_length: positions p, from 0.
        d_model: width, even.

    Returns:
        (context_length, d_model) float32.

    >>> [[round(x, 2) for x in row] for row in sinusoidal_table(2, 2).tolist()]  # sin 0, cos 0; sin 1, cos 1
    [[0.0, 1.0], [0.84, 0.54]]
    """
    raise NotImplementedError("Exercise 3.3: waves, slower and slower")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

import math
from collections.abc import Callable, Iterator
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def _by_definition(context_length: int, d_model: int) -> Tensor:
    rows = [
        [(math.sin, math.cos)[j % 2](p / 10000 ** ((j - j % 2) / d_model)) for j in range(d_model)]
        for p in range(context_length)
    ]
    return torch.tensor(rows)


def cases() -> Iterator[Case]:
    """One pair; several; far positions. The expected values come from the definition, number by number."""
    for what, context_length, d_model in (
        ("3 positions, 2 dimensions", 3, 2),
        ("4 positions, 6 dimensions", 4, 6),
        ("500 positions, 64 dimensions", 500, 64),
        ("one position", 1, 4),
    ):
        expected = _by_definition(context_length, d_model)
        yield Case(what, [context_length, d_model], expected=expected, tolerance=1e-4)


def _variant(context_length: int, d_model: int, **wrong: bool) -> Tensor:
    pairs = torch.arange(d_model // 2)
    exponents = (pairs if wrong.get("i_over_d") else 2 * pairs) / d_model
    positions = torch.arange(context_length) + wrong.get("from_one", False)
    angles = positions[:, None] / 10_000**exponents
    if wrong.get("halves"):
        return torch.cat([angles.sin(), angles.cos()], dim=-1)
    parts = [angles.cos(), angles.sin()] if wrong.get("cos_first") else [angles.sin(), angles.cos()]
    return torch.stack(parts, dim=-1).flatten(1)


def _mistaken(name: str) -> Callable[..., Any]:
    def sinusoidal_table(context_length: int, d_model: int) -> Tensor:
        return _variant(context_length, d_model, **{name: True})

    return sinusoidal_table


EXERCISE = Exercise(
    stub=sinusoidal_table,
    reference="transformer.positional_encoding:sinusoidal_table",
    cases=cases,
    hints=(
        "There are d_model / 2 speeds, and every angle is a position times a speed. This is an outer product.",
        "speeds = 1 / 10000 ** (torch.arange(0, d_model, 2) / d_model). Sines go to the even columns, cosines to the odd.",
        "angles = torch.arange(context_length)[:, None] * speeds; table[:, 0::2] = angles.sin(); table[:, 1::2] = angles.cos().",
    ),
    mistakes=(
        Mistake(_mistaken("halves"), "sine and cosine of a pair stand next to each other, not in two halves"),
        Mistake(_mistaken("cos_first"), "sine is in the even columns, cosine in the odd ones"),
        Mistake(_mistaken("i_over_d"), "the exponent is 2i / d_model, with i from 0 to d_model / 2 - 1"),
        Mistake(_mistaken("from_one"), "positions begin at 0"),
    ),
)
