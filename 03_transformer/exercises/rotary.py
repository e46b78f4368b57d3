"""Exercise 3.4: Rotary positions (RoPE)."""

from __future__ import annotations

from torch import Tensor

from transformer.positional_encoding import Rotation


def __call__(self: Rotation, heads: Tensor) -> Tensor:
    """Turn each pair of dimensions by the angle of its position (Su et al., 2021).

    Dimension i is paired with dimension i + head_dim / 2. The pair (a, b) at angle φ becomes

        a' = a cos φ - b sin φ
        b' = b cos φ + a sin φ

    The tables are as wide as the heads: `self.cos[..., i]` and `self.cos[..., i + head_dim / 2]` are both cos φ of pair
    i. `self.signed_sin` has the signs of the two lines in it: -sin φ in the first half, sin φ in the second.

    Args:
        self: the rotation; `self.cos` and `self.signed_sin` broadcast to `heads`, (time, head_dim).
        heads: (batch, heads, time, head_dim), queries or keys.

    Returns:
        A tensor with the shape and type of `heads`. (Convert the tables, which are float32.)
    """
    raise NotImplementedError("Exercise 3.4: turn pairs of dimensions")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator

import torch

from learn.exercise import Case, Exercise, Mistake
from transformer.positional_encoding import RotaryEmbedding


def _by_complex_numbers(heads: Tensor, start: int) -> Tensor:
    """A pair is a complex number; to turn it means to multiply it by e^(iφ)."""
    half = heads.shape[-1] // 2
    pairs = torch.complex(*heads.double().chunk(2, dim=-1))
    speeds = 10_000 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(start, start + heads.shape[-2])[:, None] * speeds
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1).to(heads.dtype)


def cases() -> Iterator[Case]:
    """Two dimensions; eight; later positions; bfloat16. The expected values come from products of complex numbers."""
    generator = torch.Generator().manual_seed(0)

    def question(what: str, heads: Tensor, start: int = 0, tolerance: float = 1e-5) -> Case:
        rotation = RotaryEmbedding(heads.shape[-1], 64)(slice(start, start + heads.shape[-2]))
        return Case(what, [rotation, heads], expected=_by_complex_numbers(heads, start), tolerance=tolerance)

    yield question("the vector (1, 0) at positions 0, 1, 2", torch.tensor([1.0, 0.0]).expand(1, 1, 3, 2))
    yield question("the vector (0, 1) at positions 0, 1, 2", torch.tensor([0.0, 1.0]).expand(1, 1, 3, 2))
    yield question("a batch of two, three heads of 8 dimensions", torch.randn(2, 3, 4, 8, generator=generator))
    yield question("positions 20 to 24", torch.randn(1, 1, 5, 8, generator=generator), 20)
    yield question("float64", torch.randn(1, 1, 5, 8, generator=generator, dtype=torch.float64), 3)
    yield question("a single position, far on", torch.randn(2, 1, 1, 4, generator=generator), 60)
    positions = torch.tensor([[0, 1, 2], [7, 8, 9]])
    heads = torch.randn(2, 2, 3, 4, generator=generator)
    each = torch.cat([_by_complex_numbers(heads[:1], 0), _by_complex_numbers(heads[1:], 7)])
    rotation = RotaryEmbedding(4, 64)(positions)
    yield Case("a batch of two, each at its own positions", [rotation, heads], expected=each, tolerance=1e-5)
    yield question("bfloat16", torch.randn(1, 1, 5, 8, generator=generator).bfloat16(), tolerance=3e-2)


def _neighbours(self: Rotation, heads: Tensor) -> Tensor:
    even, odd = heads[..., 0::2], heads[..., 1::2]
    swapped = torch.stack([odd, even], dim=-1).flatten(-2)
    return heads * self.cos.to(heads.dtype) + swapped * self.signed_sin.to(heads.dtype)


def _sign_twice(self: Rotation, heads: Tensor) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return heads * self.cos.to(heads.dtype) + turned * self.signed_sin.to(heads.dtype)


def _not_swapped(self: Rotation, heads: Tensor) -> Tensor:
    return heads * self.cos.to(heads.dtype) + heads * self.signed_sin.to(heads.dtype)


def _all_rolled(self: Rotation, heads: Tensor) -> Tensor:
    swapped = heads.roll(heads.shape[-1] // 2)
    return heads * self.cos.to(heads.dtype) + swapped * self.signed_sin.to(heads.dtype)


def _float32(self: Rotation, heads: Tensor) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    return heads * self.cos + torch.cat([second, first], dim=-1) * self.signed_sin


EXERCISE = Exercise(
    stub=__call__,
    reference="transformer.positional_encoding:Rotation.__call__",
    cases=cases,
    differentiable=True,
    hints=(
        "Both lines have the same form: the number itself times cos φ, plus its partner times ± sin φ.",
        "To get the partners of all numbers, exchange the two halves: heads.chunk(2, dim=-1) and torch.cat in the other order, "
        "or heads.roll(head_dim // 2, dims=-1).",
        "heads * cos + swapped * signed_sin, with cos and signed_sin converted to heads.dtype.",
    ),
    mistakes=(
        Mistake(_sign_twice, "the minus sign is in signed_sin already: exchange the halves without changing a sign"),
        Mistake(_not_swapped, "sin φ multiplies the partner in the pair, not the number itself"),
        Mistake(
            _neighbours,
            "dimension i is paired with i + head_dim / 2, not with its neighbour (both forms exist; weights depend on it)",
        ),
        Mistake(_all_rolled, "roll without dims moves numbers from one vector into the next: dims=-1"),
        Mistake(_float32, "the result has the type of `heads`: convert the tables to it"),
    ),
)
