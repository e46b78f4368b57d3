"""AdamW: every number has its own step size, and weight decay is separate from the gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from training.optimizers.optimizer import Optimizer


class AdamW(Optimizer):
    """Adam (Kingma & Ba, 2015) with decoupled weight decay (Loshchilov & Hutter, 2019).

        m ← β₁ m + (1 - β₁) g           running mean of the gradient
        v ← β₂ v + (1 - β₂) g²          running mean of its square
        θ ← θ - η λ θ - η · (m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + ε)

    Both means start at 0 and are too small at first by the factor 1 - βᵗ. The decay is not part of g.
    If it were, it would be divided by √v like the rest, and the busiest weights would decay least.

    This is the readable form. It equals `torch.optim.AdamW` up to rounding, and is used with
    `optimizer.fused: false`. PyTorch's fused kernel does all of it in one pass over memory where this
    takes a dozen, so the trainer takes the kernel by default.

    Args:
        params: tensors, or groups of them.
        lr: η.
        betas: β₁ and β₂.
        eps: ε, against division by zero.
        weight_decay: λ.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def update(self) -> None:
        """Change every parameter that has a gradient."""
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())  # a tensor, so that a checkpoint can hold it
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["step"] += 1
                steps = state["step"].item()
                mean, square = state["exp_avg"], state["exp_avg_sq"]
                mean.lerp_(parameter.grad, 1 - beta1)
                square.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
                denominator = (square.sqrt() / math.sqrt(1 - beta2**steps)).add_(group["eps"])
                parameter.mul_(1 - lr * group["weight_decay"])
                parameter.addcdiv_(mean, denominator, value=-lr / (1 - beta1**steps))
