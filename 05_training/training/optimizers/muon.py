"""Muon: the step of a whole matrix is made orthogonal, so that rare directions move as far as frequent ones.

Gradients of a matrix are nearly of low rank: a few directions dominate. Muon (Jordan et al., 2024:
https://kellerjordan.github.io/posts/muon/) replaces the momentum M = U S Vᵀ by U Vᵀ, which has the same
directions, all of length one. It is meant for the matrices inside the blocks.

The orthogonal factor comes from matrix products alone. With X₀ = M / ||M||, the odd polynomial

    Xₖ₊₁ = a Xₖ + b (Xₖ Xₖᵀ) Xₖ + c (Xₖ Xₖᵀ)² Xₖ          (Newton–Schulz)

acts on each singular value by s → a s + b s³ + c s⁵ and does not change U and V. The coefficients are chosen
for a steep start: after five rounds, singular values between 0.01 and 1 lie between about 0.7 and 1.2, which is
near enough to one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from training.optimizers.optimizer import Optimizer
from training.parallel.workers import spread_like, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
EPS = 1e-7


def orthogonalise(matrices: Tensor, rounds: int = ROUNDS) -> Tensor:
    """The nearest orthogonal matrix, roughly, in bfloat16.

    Args:
        matrices: (..., rows, columns); leading axes are separate matrices, treated together.
        rounds: of Newton–Schulz.

    Returns:
        The same shape, bfloat16, with singular values near 1.

    Raises:
        ValueError: fewer than two axes.

    >>> square = orthogonalise(torch.randn(64, 64))
    >>> bool((torch.linalg.svdvals(square.float()) < 1.3).all())
    True
    """
    if matrices.ndim < 2:
        raise ValueError(f"only a matrix can be made orthogonal, got the shape {tuple(matrices.shape)}")
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.bfloat16().reshape(-1, *matrices.shape[-2:])
    if tall:
        x = x.mT  # X Xᵀ should be the smaller of the two squares
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=EPS)
    for _ in range(rounds):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return (x.mT if tall else x).reshape(matrices.shape)


class Muon(Optimizer):
    """B ← B + (1 - μ)(g - B),  θ ← θ - η λ θ - η' · orthogonalise(g + μ (B - g))  (Nesterov's look ahead).

    η' = η · max(1, rows / columns)^½ makes the output change by a similar size for wide and tall matrices.
    The result equals `torch.optim.Muon` up to bfloat16's rounding. It is faster for small models: matrices of
    one shape are stacked and orthogonalised together.

    Args:
        params: matrices, or groups of them.
        lr: η.
        momentum: μ.
        weight_decay: λ.

    Raises:
        ValueError: a parameter is not a matrix, or a setting is out of range.
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.95, weight_decay: float = 0.1):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(
                        f"Muon is for matrices, and a parameter has the shape {tuple(parameter.shape)}: use AdamW"
                    )

    @torch.no_grad()
    def update(self) -> None:
        """Change every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                directions = orthogonalise(torch.stack([self._look_ahead(p, group["momentum"]) for p in parameters]))
                for parameter, direction in zip(parameters, directions.float(), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(spread_like(parameter, direction), alpha=-rate)

    def _look_ahead(self, parameter: Tensor, momentum: float) -> Tensor:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        ahead = gradient.lerp(state["momentum_buffer"].lerp_(gradient, 1 - momentum), momentum)
        # FSDP spreads a matrix over the ranks; its singular vectors need the whole of it.
        return whole(ahead)
