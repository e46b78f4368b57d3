"""An exponential moving average of the weights: a model smoother than any step of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """a ← d a + (1 - d) θ after every step (Polyak & Juditsky, 1992, with forgetting).

    While the learning rate is high, the weights jump around a good point, and their average is nearer to it
    than any of them. With a schedule that decays to zero, they settle there by themselves, and the average
    gains little. It helps where the rate stays high.

    Args:
        model: its learned parameters are averaged.
        decay: d, from 0 to below 1. The average reaches back about 1 / (1 - d) steps.

    Raises:
        ValueError: a decay out of range.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> average = WeightAverage(model, 0.5)
    >>> _ = model.weight.data.add_(2.0)
    >>> average.update()
    >>> with average.applied():
    ...     inside = model.weight.item()
    >>> round(model.weight.item() - inside, 4)
    1.0
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"the decay must be at least 0 and below 1, got {decay}")
        self.decay = decay
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.averages = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Follow the weights by one step."""
        for name, parameter in self.parameters.items():
            self.averages[name].lerp_(parameter, 1 - self.decay)

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Continue from a checkpoint, whose model is the average.

        Args:
            tensors: the weights themselves, as `raw.NAME`.

        Raises:
            KeyError: a parameter is not among them.
        """
        for name, parameter in self.parameters.items():
            self.averages[name].copy_(parameter)
            parameter.copy_(tensors[f"raw.{name}"])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside this context, the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            average: Tensor = self.averages[name]
            current = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(current)
