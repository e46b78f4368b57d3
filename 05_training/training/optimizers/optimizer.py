"""What the optimizers in this folder share: checked settings, and a step that takes a closure as in PyTorch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch


class Optimizer(torch.optim.Optimizer, ABC):
    """Changes parameters in place after `backward` has filled in their gradients."""

    @abstractmethod
    def update(self) -> None:
        """Change every parameter that has a gradient."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: computes the loss and its gradients again, and returns the loss; called before the step.

        Returns:
            What the closure returned; None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take parameters with settings of their own; the constructor calls this for each group.

        Raises:
            ValueError: a setting is out of range.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for name in ("lr", "eps", "weight_decay"):
            if not group.get(name, 0.0) >= 0.0:  # also false for nan
                raise ValueError(f"{name} must not be negative, got {group[name]}")
        kept = {"beta1": group["betas"][0], "beta2": group["betas"][1]} if "betas" in group else {}
        for name, share in {**kept, "momentum": group.get("momentum", 0.0)}.items():
            if not 0.0 <= share < 1.0:
                raise ValueError(f"{name} must be at least 0 and below 1, got {share}")
