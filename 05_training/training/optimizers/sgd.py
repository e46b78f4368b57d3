"""Stochastic gradient descent: the step is the gradient times a rate, with or without momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from training.optimizers.optimizer import Optimizer


class SGD(Optimizer):
    """v ← μ v + g + λ θ,  θ ← θ - η v. Without momentum, v is the gradient.

    For convex problems the rate must fall like 1 / sqrt(t) for the average of the iterates to converge
    (Zinkevich, 2003); `schedule.kind: inverse_sqrt` does that. On language models SGD learns far more
    slowly than AdamW: gradients of rare tokens are rare and small, and so are SGD's steps for them.

    Args:
        params: tensors, or groups of them.
        lr: η.
        momentum: μ.
        weight_decay: λ, added to the gradient as an L2 penalty is.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.0, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def update(self) -> None:
        """Change every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                direction: Tensor = parameter.grad
                if group["weight_decay"]:
                    direction = direction.add(parameter, alpha=group["weight_decay"])
                if group["momentum"]:
                    state = self.state[parameter]
                    if "momentum_buffer" not in state:
                        state["momentum_buffer"] = torch.zeros_like(parameter)
                    direction = state["momentum_buffer"].mul_(group["momentum"]).add_(direction)
                parameter.add_(direction, alpha=-group["lr"])
