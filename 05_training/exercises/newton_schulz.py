"""Exercise 5.7: Newton–Schulz, the heart of Muon."""

from __future__ import annotations

import torch
from torch import Tensor

from training.optimizers.muon import COEFFICIENTS, EPS, ROUNDS


def orthogonalise(matrices: Tensor, rounds: int = ROUNDS) -> Tensor:
    """The nearest orthogonal matrix, approximately, using only matrix products (Jordan et al., 2024: Muon).

    X₀ = M / ‖M‖. Here ‖M‖ is the root of the sum of the squares of all numbers of a matrix, at least EPS. Then `rounds` times

        X ← a X + b (X Xᵀ) X + c (X Xᵀ)² X          a, b, c = COEFFICIENTS

    This turns each singular value s into a s + b s³ + c s⁵ and does not change the singular vectors.

    If a matrix has more rows than columns, you may transpose it first and transpose it back at the end. Then X Xᵀ is the
    smaller square. The result is the same; it only saves time.

    Args:
        matrices: (..., rows, columns); the axes in front are separate matrices, each with its own norm.
        rounds: how many rounds to make.

    Returns:
        A tensor of the same shape in bfloat16; the package also computes in bfloat16.
    """
    raise NotImplementedError("Exercise 5.7: bring all singular values near one")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def _in_float32(result: Any, arguments: Any) -> dict[str, Any]:
    return {"shape": tuple(result.shape), "dtype": str(result.dtype), "values": result.float()}


def _exact(matrices: Tensor, rounds: int) -> Tensor:
    """The polynomial applied to the singular values."""
    u, s, v = torch.linalg.svd(matrices.bfloat16().double(), full_matrices=False)
    s = s / s.norm(dim=-1, keepdim=True).clamp(min=EPS)
    a, b, c = COEFFICIENTS
    for _ in range(rounds):
        s = a * s + b * s**3 + c * s**5
    return (u * s[..., None, :] @ v).bfloat16()


def cases() -> Iterator[Case]:
    """One round; five; wide; tall; several; zeros; tiny; bfloat16; none. Expected: the polynomial of singular values."""
    generator = torch.Generator().manual_seed(0)
    for what, shape, rounds in (
        ("a square matrix, one round", (4, 4), 1),
        ("a square matrix, five rounds", (4, 4), 5),
        ("a wide matrix, 3 × 8", (3, 8), 5),
        ("a tall matrix, 8 × 3", (8, 3), 5),
        ("two matrices of very different size", (2, 4, 6), 5),
        ("two matrices; the first is all zeros", (2, 4, 6), 5),
        ("two matrices; the first has a norm of about EPS / 2, one round", (2, 4, 6), 1),
        ("two times three tall matrices", (2, 3, 6, 4), 5),
        ("a matrix in bfloat16", (4, 4), 5),
        ("no round: only the norm", (4, 4), 0),
    ):
        matrices = torch.randn(shape, generator=generator)
        if len(shape) == 3:
            matrices[0] *= 0 if "zeros" in what else 0.1 * EPS if "EPS" in what else 100
        if "bfloat16" in what:
            matrices = matrices.bfloat16()
        expected = _in_float32(_exact(matrices, rounds), None)
        yield Case(what, [matrices, rounds], expected=expected, tolerance=0.06, observe=_in_float32)


def _rounds(matrices: Tensor, rounds: int, **wrong: bool) -> Tensor:
    a, b, c = COEFFICIENTS
    x = matrices if wrong.get("float32") else matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    if not wrong.get("not_normalised"):
        norm = x.norm() if wrong.get("one_norm") else x.norm(dim=(-2, -1), keepdim=True)
        if wrong.get("largest"):
            norm = x.abs().amax(dim=(-2, -1), keepdim=True)
        if wrong.get("eps_added"):
            norm = norm + EPS
        if wrong.get("in_place"):
            x /= norm.clamp(min=EPS)
        else:
            x = x / (norm if wrong.get("no_floor") else norm.clamp(min=EPS))
    for _ in range(rounds - bool(wrong.get("one_fewer"))):
        gram = x @ x.mT
        if wrong.get("without_x"):
            x = a * x + b * gram + c * gram @ gram
            continue
        if wrong.get("other_square"):
            gram = x.mT @ x
        if wrong.get("batched"):
            gram = torch.bmm(x, x.mT)
        x = a * x + (b * gram + (0 if wrong.get("no_fifth") else c) * gram @ gram) @ x
    return x.mT if tall and not wrong.get("not_turned_back") else x


def _mistaken(name: str) -> Callable[..., Any]:
    def orthogonalise(matrices: Tensor, rounds: int = ROUNDS) -> Tensor:
        return _rounds(matrices, rounds, **{name: True})

    return orthogonalise


def _elementwise(matrices: Tensor, rounds: int = ROUNDS) -> Tensor:
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    x = x / x.norm(dim=(-2, -1), keepdim=True)
    for _ in range(rounds):
        x = a * x + b * x**3 + c * x**5
    return x


EXERCISE = Exercise(
    stub=orthogonalise,
    reference="training.optimizers.muon:orthogonalise",
    cases=cases,
    hints=(
        "First matrices.bfloat16(). Then transpose if tall, divide by the norm, do the rounds, and transpose back.",
        ".mT transposes the last two axes. The norm of each matrix is x.norm(dim=(-2, -1), keepdim=True).",
        "gram = x @ x.mT; x = a * x + (b * gram + c * gram @ gram) @ x, `rounds` times.",
    ),
    mistakes=(
        Mistake(_elementwise, "the powers are of matrices, X Xᵀ X, not of single numbers"),
        Mistake(
            _mistaken("not_normalised"), "divide by the norm first: the polynomial needs singular values of at most 1"
        ),
        Mistake(_mistaken("largest"), "the norm is the root of the sum of all squares, not the largest number"),
        Mistake(_mistaken("no_floor"), "a matrix of zeros has the norm 0, and 0/0 is nan: the norm is at least EPS"),
        Mistake(_mistaken("one_fewer"), "`rounds` rounds are asked for; this makes one round less"),
        Mistake(
            _mistaken("without_x"), "the products end with X: b (X Xᵀ) X and c (X Xᵀ)² X; otherwise all powers are even"
        ),
        Mistake(_mistaken("other_square"), "X Xᵀ, not Xᵀ X, stands before X: both fit only if the matrix is square"),
        Mistake(_mistaken("no_fifth"), "the term c (X Xᵀ)² X is missing"),
        Mistake(_mistaken("float32"), "the result is in bfloat16; compute in bfloat16 too, which is half the work"),
        Mistake(_mistaken("not_turned_back"), "a tall matrix must be transposed back at the end"),
        Mistake(_mistaken("one_norm"), "each matrix has its own norm: keep the axes in front separate"),
        Mistake(_mistaken("eps_added"), "the norm is at least EPS: clamp(min=EPS), not + EPS"),
        Mistake(_mistaken("batched"), "bmm takes three axes exactly; @ takes any number of them"),
        Mistake(
            _mistaken("in_place"), "bfloat16() returns the same tensor if it is bfloat16 already: write x = x / norm"
        ),
    ),
)
