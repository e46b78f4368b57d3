"""Exercise 1.5: The matrix product, forwards and backwards.

Nearly all the arithmetic of a language model is this operation. Its gradient consists of two more matrix products.
"""

from __future__ import annotations

from neural_networks.backpropagation import ArrayLike, Tensor, as_tensor
from neural_networks.broadcasting import Array, unbroadcast


def __matmul__(self: Tensor, other: ArrayLike) -> Tensor:
    """Y = A B, over any batch dimensions in front, with its gradient.

        dL/dA = dL/dY Bᵀ        dL/dB = Aᵀ dL/dY

    Where an operand was broadcast over batch dimensions, its gradient is summed over them: `unbroadcast`.

    An operation is made by `Tensor.from_operation(result, inputs, backward, name)`: `result` is the array and `inputs`
    are the tensors that it was computed from. `backward` turns the gradient of the result into a tuple of gradients, one
    for each input (a tuple even for one input: `(gradient,)`). `name` is any short text, for drawings.

    Args:
        self: A, (..., m, k). Its numbers are `self.data`.
        other: B, (..., k, n), a tensor or anything that `as_tensor(other, self)` can turn into one.

    Returns:
        (..., m, n).
    """
    raise NotImplementedError("Exercise 1.5: multiply, and write the backward function")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from learn.exercise import Case, Exercise, Mistake


def _value_and_gradients(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    result.backward(np.random.default_rng(1).normal(size=result.shape))
    a, b = arguments
    found = {"value": result.data, "gradient of A": a.grad, "A": a.data}
    return found | ({"gradient of B": b.grad, "B": b.data} if isinstance(b, Tensor) else {})


def cases() -> Iterator[Case]:
    """Matrices; a plain array; batches; a matrix shared by a batch; float32; no gradient wanted."""
    rng = np.random.default_rng(0)

    def pair(first: tuple[int, ...], second: tuple[int, ...], dtype: type = np.float64) -> list[Tensor]:
        return [Tensor(rng.normal(size=shape).astype(dtype), requires_grad=True) for shape in (first, second)]

    yield Case("(2, 3) @ (3, 4)", pair((2, 3), (3, 4)), observe=_value_and_gradients)
    yield Case("a square matrix", pair((3, 3), (3, 3)), observe=_value_and_gradients)
    plain = [Tensor(rng.normal(size=(2, 3)), requires_grad=True), rng.normal(size=(3, 2))]
    yield Case("a tensor and a plain array", plain, observe=_value_and_gradients)
    yield Case("a batch of five on either side", pair((5, 2, 3), (5, 3, 4)), observe=_value_and_gradients)
    yield Case(
        "one weight for a batch of five: gradients add up", pair((5, 2, 3), (3, 4)), observe=_value_and_gradients
    )
    yield Case("a batch of one and a batch of five", pair((1, 2, 3), (5, 3, 4)), observe=_value_and_gradients)
    yield Case("(5, 1, 2, 3) @ (4, 3, 2): both are shared", pair((5, 1, 2, 3), (4, 3, 2)), observe=_value_and_gradients)
    yield Case("float32 stays float32", pair((2, 3), (3, 4), np.float32), observe=_value_and_gradients)
    lists = [Tensor(rng.normal(size=(2, 2)).astype(np.float32), requires_grad=True), [[1.5, 2.0], [3.0, 4.0]]]
    yield Case("a float32 tensor and a list of lists", lists, observe=_value_and_gradients)
    constant = [Tensor(rng.normal(size=(2, 3))), Tensor(rng.normal(size=(3, 2)), requires_grad=True)]
    yield Case("A needs no gradient", constant, observe=_value_and_gradients)


def _operation(a: Tensor, b: Tensor, backward: Any) -> Tensor:
    return Tensor.from_operation(a.data @ b.data, (a, b), backward, "@")


def _exchanged(self: Tensor, other: ArrayLike) -> Tensor:
    a, b = self, as_tensor(other, self)

    def backward(g: Array) -> tuple[Array, Array]:
        return unbroadcast(a.data.swapaxes(-1, -2) @ g, b.shape), unbroadcast(g @ b.data.swapaxes(-1, -2), a.shape)

    return _operation(a, b, backward)


def _not_transposed(self: Tensor, other: ArrayLike) -> Tensor:
    a, b = self, as_tensor(other, self)
    return _operation(a, b, lambda g: (unbroadcast(g @ b.data, a.shape), unbroadcast(a.data @ g, b.shape)))


def _all_axes_transposed(self: Tensor, other: ArrayLike) -> Tensor:
    a, b = self, as_tensor(other, self)
    return _operation(a, b, lambda g: (unbroadcast(g @ b.data.T, a.shape), unbroadcast(a.data.T @ g, b.shape)))


def _not_summed(self: Tensor, other: ArrayLike) -> Tensor:
    a, b = self, as_tensor(other, self)
    return _operation(a, b, lambda g: (g @ b.data.swapaxes(-1, -2), a.data.swapaxes(-1, -2) @ g))


EXERCISE = Exercise(
    stub=__matmul__,
    reference="neural_networks.backpropagation:Tensor.__matmul__",
    cases=cases,
    hints=(
        "The shapes decide: dL/dA has A's shape (m, k), dL/dY has (m, n), B has (k, n). Which product fits?",
        "Transpose only the last two axes: swapaxes(-1, -2). Then unbroadcast each gradient to the shape of its operand, "
        "because a whole batch may have shared the operand.",
        "a, b = self, as_tensor(other, self); backward(g) returns unbroadcast(g @ b.data.swapaxes(-1, -2), a.shape) and "
        "unbroadcast(a.data.swapaxes(-1, -2) @ g, b.shape).",
    ),
    mistakes=(
        Mistake(_exchanged, "backward returns the gradients in the order of the inputs: first A's, then B's"),
        Mistake(_not_transposed, "the other operand is transposed in the gradient: dL/dA = dL/dY Bᵀ"),
        Mistake(
            _all_axes_transposed,
            ".T reverses all axes; with a batch only the last two may be exchanged: swapaxes(-1, -2)",
        ),
        Mistake(
            _not_summed,
            "where a matrix is shared by a batch, its gradient is the sum over the batch: unbroadcast it to the operand's shape",
        ),
    ),
)
