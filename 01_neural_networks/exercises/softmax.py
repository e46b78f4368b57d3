"""Exercise 1.7: Softmax, forwards and backwards."""

from __future__ import annotations

import numpy as np

from neural_networks.backpropagation import Tensor


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """pᵢ = exp xᵢ / Σⱼ exp xⱼ turns any numbers into probabilities.

    In float32, exp overflows from about 89 on. Subtracting the largest x first changes no result and prevents this.

    The derivative is dpᵢ/dxⱼ = pᵢ (δᵢⱼ - pⱼ). Multiply it by the gradient g of the output and sum over i:

        dL/dxⱼ = pⱼ (gⱼ - Σᵢ gᵢ pᵢ)

    So the matrix of all i and j does not have to be built.

    Args:
        x: any shape.
        axis: along which the outputs sum to 1.

    Returns:
        A tensor with the shape of `x`, made by `Tensor.from_operation(result, inputs, backward, name)`; see exercise 1.5.
    """
    raise NotImplementedError("Exercise 1.7: softmax and its gradient")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from learn.exercise import Case, Exercise, Mistake


def _value_and_gradient(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    result.backward(np.random.default_rng(1).normal(size=result.shape))
    return {"value": result.data, "gradient": arguments[0].grad, "x": arguments[0].data}


def _by_torch(x: np.ndarray, axis: int) -> dict[str, Any]:
    tensor = torch.tensor(x, requires_grad=True)
    out = tensor.softmax(dim=axis)
    out.backward(torch.tensor(np.random.default_rng(1).normal(size=x.shape)).to(out.dtype))
    assert tensor.grad is not None
    return {"value": out.detach().numpy(), "gradient": tensor.grad.numpy(), "x": x}


def cases() -> Iterator[Case]:
    """A row; a matrix; another axis; large numbers, near and far; float32. The expected values come from PyTorch."""
    rng = np.random.default_rng(0)
    questions = [
        ("a row of three", np.array([1.0, 2.0, 3.0]), -1),
        ("a matrix, along its last axis", rng.normal(size=(4, 5)), -1),
        ("a matrix, along its first axis", rng.normal(size=(4, 5)), 0),
        ("the middle axis of three", rng.normal(size=(2, 3, 4)), 1),
        ("numbers near 1,000, where exp overflows", np.array([1000.0, 999.0, 1001.0]), -1),
        ("numbers near -1,000, where exp underflows", np.array([-1000.0, -999.0, -1001.0]), -1),
        ("-1,000, 0 and 1,000 in one row", np.array([-1000.0, 0.0, 1000.0]), -1),
        ("one row near 1,000 and one near -1,000", np.array([[1000.0, 1001.0], [-1000.0, -1001.0]]), -1),
        ("one column near 1,000 and one near -1,000", np.array([[1000.0, -1000.0], [1001.0, -1001.0]]), 0),
        ("float32, where exp overflows from 89 on", np.array([[100.0, 0.0, 99.0]], dtype=np.float32), -1),
        ("an axis of length 1", rng.normal(size=(3, 1)), -1),
        ("a number that is hidden by -inf", np.array([1.0, -np.inf, 2.0]), -1),
    ]
    for what, x, axis in questions:
        expected = _by_torch(x, axis)
        yield Case(what, [Tensor(x, requires_grad=True), axis], expected=expected, observe=_value_and_gradient)


def _probabilities(x: np.ndarray, axis: int) -> np.ndarray:
    p = np.exp(x - x.max(axis=axis, keepdims=True))
    return p / p.sum(axis=axis, keepdims=True)


def _overflowing(x: Tensor, axis: int = -1) -> Tensor:
    with np.errstate(all="ignore"):
        p = np.exp(x.data) / np.exp(x.data).sum(axis=axis, keepdims=True)
        return Tensor.from_operation(p, (x,), lambda g: (p * (g - (g * p).sum(axis=axis, keepdims=True)),), "softmax")


def _diagonal(x: Tensor, axis: int = -1) -> Tensor:
    p = _probabilities(x.data, axis)
    return Tensor.from_operation(p, (x,), lambda g: (g * p * (1 - p),), "softmax")


def _last_axis(x: Tensor, axis: int = -1) -> Tensor:
    p = _probabilities(x.data, -1)
    return Tensor.from_operation(p, (x,), lambda g: (p * (g - (g * p).sum(axis=-1, keepdims=True)),), "softmax")


def _last_axis_backwards(x: Tensor, axis: int = -1) -> Tensor:
    p = _probabilities(x.data, axis)
    return Tensor.from_operation(p, (x,), lambda g: (p * (g - (g * p).sum(axis=-1, keepdims=True)),), "softmax")


def _not_in_a_tuple(x: Tensor, axis: int = -1) -> Tensor:
    p = _probabilities(x.data, axis)
    return Tensor.from_operation(p, (x,), lambda g: p * (g - (g * p).sum(axis=axis, keepdims=True)), "softmax")


def _not_weighted(x: Tensor, axis: int = -1) -> Tensor:
    p = _probabilities(x.data, axis)
    return Tensor.from_operation(p, (x,), lambda g: (p * (g - g.sum(axis=axis, keepdims=True)),), "softmax")


EXERCISE = Exercise(
    stub=softmax,
    reference="neural_networks.operations:softmax",
    cases=cases,
    hints=(
        "Compute p as an array first, with NumPy alone; the backward function can then use it.",
        "Sums and maxima along the axis need keepdims=True, so that they broadcast against the array again.",
        "p = np.exp(x.data - x.data.max(axis=axis, keepdims=True)), divided by its sum; the gradient is "
        "p * (g - (g * p).sum(axis=axis, keepdims=True)), in a tuple of one.",
    ),
    mistakes=(
        Mistake(
            _diagonal,
            "every x changes every p, since they share the denominator; p (1 - p) is only the effect of x on its own p",
        ),
        Mistake(_not_weighted, "the gradient contains the sum of gᵢ pᵢ, not of gᵢ"),
        Mistake(_last_axis, "the axis that was asked for is not used everywhere"),
        Mistake(_last_axis_backwards, "the sum in the gradient runs along `axis` too, not always along the last one"),
        Mistake(_not_in_a_tuple, "one input, one gradient, and still a tuple: return (gradient,)"),
        Mistake(_overflowing, "exp overflows: subtract the largest number of the axis first"),
    ),
)
