"""Optimizers decide what to do with a gradient. Each changes the parameters in place.

All take the same arguments: the arrays to learn, and at each step gradients of the same shapes.
The formulas are those of `torch.optim`, and the numbers agree step by step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from neural_networks.broadcasting import Array

# Elements handled at a time. Adam reads its arrays a dozen times, and pieces of this size stay in the
# cache of a core during that time. Large networks become about two times faster.
CHUNK = 1 << 14


def _flat_views(parameters: Sequence[Array], lr: float) -> list[Array]:
    """A view of each parameter as one row, so that a change of the row changes the parameter.

    Raises:
        ValueError: an array has no such view, a parameter is not an array, or the rate is negative.
    """
    if not lr >= 0:
        raise ValueError(f"the learning rate must not be negative, got {lr}")
    for parameter in parameters:
        if not isinstance(parameter, np.ndarray) or not parameter.flags.c_contiguous:
            raise ValueError(
                "parameters are changed in place, so they must be C-contiguous arrays: for a Tensor give its `data`, "
                "for a transposed array a copy made by np.ascontiguousarray"
            )
    return [parameter.reshape(-1) for parameter in parameters]


class SGD:
    """Gradient descent: θ ← θ - η g. It is stochastic because g is the gradient on a small batch.

    Args:
        parameters: C-contiguous arrays.
        lr: the learning rate η; may be changed between steps.
    """

    def __init__(self, parameters: Sequence[Array], lr: float):
        self.parameters = _flat_views(parameters, lr)
        self.lr = lr
        self._scratch = [np.empty_like(parameter) for parameter in self.parameters]

    def step(self, gradients: Sequence[Array]) -> None:
        """Change the parameters by one step against the gradients."""
        for parameter, gradient, scratch in zip(self.parameters, gradients, self._scratch, strict=True):
            np.multiply(gradient.reshape(-1), self.lr, out=scratch)
            parameter -= scratch


class Momentum:
    """Gradient descent with a memory (Polyak, 1964): v ← μ v + g, θ ← θ - η v.

    If gradients agree from step to step, v becomes up to 1/(1 - μ) times as long as one of them. If
    their sign changes from step to step, they cancel.

    Args:
        parameters: C-contiguous arrays.
        lr: the learning rate η; may be changed between steps.
        momentum: μ, the share of v that is kept.
    """

    def __init__(self, parameters: Sequence[Array], lr: float, momentum: float = 0.9):
        self.parameters = _flat_views(parameters, lr)
        self.lr = lr
        self.momentum = momentum
        self.velocities = [np.zeros_like(parameter) for parameter in self.parameters]
        self._scratch = [np.empty_like(parameter) for parameter in self.parameters]

    def step(self, gradients: Sequence[Array]) -> None:
        """Change the parameters by one step."""
        for parameter, gradient, velocity, scratch in zip(
            self.parameters, gradients, self.velocities, self._scratch, strict=True
        ):
            velocity *= self.momentum
            velocity += gradient.reshape(-1)
            np.multiply(velocity, self.lr, out=scratch)
            parameter -= scratch


class Adam:
    """Steps of about the same length for every parameter (Kingma and Ba, 2015).

        m ← β₁ m + (1 - β₁) g        running mean of the gradient
        v ← β₂ v + (1 - β₂) g²       running mean of its square
        θ ← θ - η · (m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + ε)

    Both means start at 0 and are too small at first. After t steps they have only the share 1 - βᵗ of
    their full value, so they are divided by it. m/√v is a ratio of two sizes of the gradient. So a
    parameter whose gradients are a thousand times smaller moves as fast as the others.

    Args:
        parameters: C-contiguous arrays.
        lr: the learning rate η; may be changed between steps.
        betas: β₁ and β₂.
        eps: ε, against division by 0.
    """

    def __init__(
        self,
        parameters: Sequence[Array],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        self.parameters = _flat_views(parameters, lr)
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.steps = 0
        self.means = [np.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [np.zeros_like(parameter) for parameter in self.parameters]
        self._scratch = [np.empty_like(parameter[:CHUNK]) for parameter in self.parameters]

    def step(self, gradients: Sequence[Array]) -> None:
        """Change the parameters by one step."""
        self.steps += 1
        beta1, beta2 = self.betas
        # √(v / c₂) + ε = (√v + ε √c₂) / √c₂, so both corrections become one factor.
        root = math.sqrt(1 - beta2**self.steps)
        rate, eps = self.lr * root / (1 - beta1**self.steps), self.eps * root
        for parameter, gradient, mean, square, scratch in zip(
            self.parameters, gradients, self.means, self.squares, self._scratch, strict=True
        ):
            flat = gradient.reshape(-1)
            for start in range(0, len(parameter), CHUNK):
                here = slice(start, start + CHUNK)
                g, m, v = flat[here], mean[here], square[here]
                work = scratch[: len(g)]
                np.subtract(g, m, out=work)
                work *= 1 - beta1
                m += work
                np.multiply(g, g, out=work)
                work *= 1 - beta2
                v *= beta2
                v += work
                np.sqrt(v, out=work)
                work += eps
                np.divide(m, work, out=work)
                work *= rate
                parameter[here] -= work
