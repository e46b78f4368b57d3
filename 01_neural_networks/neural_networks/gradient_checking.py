"""Is the derivative right? Compare it with the definition: (f(x + ε) - f(x - ε)) / 2ε.

This central difference has an error of order ε². A difference to one side has an error of order ε, so
the second evaluation is worth its price. Rounding adds an error of about 1e-16 · |f| / ε. In float64
both errors are small at ε near 1e-6, and a right gradient agrees to seven digits or more. In float32
the rounding error is larger than the answer, so check in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from neural_networks.backpropagation import Tensor
from neural_networks.broadcasting import Array


def numerical_gradient(function: Callable[[], float], x: Array, epsilon: float = 1e-6) -> Array:
    """Gradient of a function of an array by central differences, one element after the other.

    Args:
        function: computes the value from the present content of `x` at each call.
        x: float64 array, changed in place during the measurement and restored after it.
        epsilon: how far to go to each side; for an element of size above 1, this times its size.

    >>> x = np.array([1.0, 2.0, 3.0])
    >>> numerical_gradient(lambda: float((x**2).sum()), x).round(6)
    array([2., 4., 6.])
    """
    if x.dtype != np.float64:
        raise ValueError(f"finite differences need float64, got {x.dtype}: its rounding would drown the difference")
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        here = float(x[index])
        step = epsilon * max(1.0, abs(here))
        x[index] = here + step
        above = function()
        x[index] = here - step
        below = function()
        x[index] = here
        gradient[index] = (above - below) / (2 * step)
    return gradient


@dataclass(frozen=True)
class GradientCheck:
    """How far a computed gradient is from the measured one, for one input.

    Args:
        name: name of the input.
        shape: shape of the input.
        error: largest |computed - measured| / max(1, |measured|).
        worst: the place of the largest error.
        computed: the gradient there by backpropagation.
        measured: the gradient there by finite differences.
        tolerance: largest error that passes.
    """

    name: str
    shape: tuple[int, ...]
    error: float
    worst: tuple[int, ...]
    computed: float
    measured: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; NaN does not pass."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "WRONG"
        return (
            f"{verdict:<6}{self.name:<12}{self.shape!s:<14}largest error {self.error:.1e} at {self.worst}: "
            f"computed {self.computed:.8g}, measured {self.measured:.8g}"
        )


def compare_gradients(name: str, computed: Array, measured: Array, tolerance: float = 1e-6) -> GradientCheck:
    """Compare a computed gradient with a measured one."""
    errors = np.abs(computed - measured) / np.maximum(1.0, np.abs(measured))
    if errors.size == 0:
        return GradientCheck(name, computed.shape, 0.0, (), 0.0, 0.0, tolerance)
    worst = tuple(int(i) for i in np.unravel_index(np.argmax(errors), errors.shape))  # argmax finds a NaN first
    return GradientCheck(
        name, computed.shape, float(errors[worst]), worst, float(computed[worst]), float(measured[worst]), tolerance
    )


def check_gradients(
    function: Callable[..., Tensor], *inputs: Array, tolerance: float = 1e-6, seed: int = 0
) -> list[GradientCheck]:
    """Check the gradients of a function of tensors, for each of its inputs.

    An output of several numbers is multiplied by fixed random weights and summed. Without the weights
    errors could cancel by symmetry: the sum of a softmax, for example, is 1 even if its gradient is wrong.

    Args:
        function: takes as many tensors as there are inputs, returns a tensor of any shape. It must
            return the same for the same inputs, which dropout does not.
        inputs: where to check; converted to float64.
        tolerance: largest error that passes.
        seed: seed of the random weights.
    """
    tensors = [Tensor(np.array(x, dtype=np.float64), requires_grad=True) for x in inputs]
    out = function(*tensors)
    weights = np.random.default_rng(seed).normal(size=out.shape)
    (out * weights).sum().backward()

    def value() -> float:
        return float((function(*tensors).data * weights).sum())

    checks = []
    for number, tensor in enumerate(tensors):
        computed = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad
        checks.append(compare_gradients(f"input {number}", computed, numerical_gradient(value, tensor.data), tolerance))
    return checks


def main() -> None:
    """Check a right gradient and a wrong one."""
    from neural_networks.operations import cross_entropy, tanh

    rng = np.random.default_rng(0)
    inputs, weights, targets = rng.normal(size=(4, 3)), rng.normal(size=(3, 5)), np.array([0, 4, 2, 2])
    print("cross_entropy(tanh(x @ w)):")
    for check in check_gradients(lambda x, w: cross_entropy(tanh(x @ w), targets), inputs, weights):
        print(" ", check)

    def wrong_tanh(x: Tensor) -> Tensor:
        out = np.tanh(x.data)
        return Tensor.from_operation(out, (x,), lambda g: (g * (1 - out),), "wrong tanh")  # forgot to square

    print("The same with 1 - tanh instead of 1 - tanh²:")
    for check in check_gradients(lambda x, w: cross_entropy(wrong_tanh(x @ w), targets), inputs, weights):
        print(" ", check)


if __name__ == "__main__":
    main()
