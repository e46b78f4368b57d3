"""The functions that a neural network is made of, each in a few lines with its derivative.

Each computes with NumPy and gives `Tensor.from_operation` the one thing that the engine needs: how a
gradient of the output becomes a gradient of the input. Where the derivative is simplest in terms of
the output (exp, tanh, sigmoid, softmax), the closure keeps the output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from neural_networks.backpropagation import ArrayLike, Tensor, as_tensor
from neural_networks.broadcasting import Array, Axes, restore_axes, unbroadcast

# --- element by element --------------------------------------------------------------------------


def exp(x: Tensor) -> Tensor:
    """eˣ, its own derivative."""
    out = np.exp(x.data)
    return Tensor.from_operation(out, (x,), lambda g: (g * out,), "exp")


def log(x: Tensor) -> Tensor:
    """Natural logarithm: d ln x / dx = 1/x."""
    return Tensor.from_operation(np.log(x.data), (x,), lambda g: (g / x.data,), "log")


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent: d tanh x / dx = 1 - tanh² x."""
    out = np.tanh(x.data)
    return Tensor.from_operation(out, (x,), lambda g: (g * (1 - out * out),), "tanh")


def sigmoid(x: Tensor) -> Tensor:
    """σ(x) = 1 / (1 + e⁻ˣ), with dσ/dx = σ (1 - σ). It is computed by tanh, which cannot overflow."""
    out = 0.5 * (1 + np.tanh(0.5 * x.data))
    return Tensor.from_operation(out, (x,), lambda g: (g * out * (1 - out),), "sigmoid")


def relu(x: Tensor) -> Tensor:
    """max(x, 0). The derivative is 1 above zero, 0 below zero, and by convention 0 at zero."""
    return Tensor.from_operation(np.maximum(x.data, 0), (x,), lambda g: (g * (x.data > 0),), "relu")


def gelu(x: Tensor) -> Tensor:
    """x Φ(x), where Φ is the normal distribution function (Hendrycks and Gimpel, 2016).

    The derivative is Φ(x) + x φ(x), where φ is the normal density.
    """
    cdf = (0.5 * (1 + _erf(x.data / math.sqrt(2)))).astype(np.result_type(x.data, np.float16))  # integers give float64

    def backward(g: Array) -> tuple[Array]:
        density = np.exp(-0.5 * x.data**2) / math.sqrt(2 * math.pi)
        return (g * (cdf + x.data * density),)

    return Tensor.from_operation(x.data * cdf, (x,), backward, "gelu")


# NumPy has no erf. The one of the standard library takes one number at a time; it is slow, but exact to
# the last digit. The usual polynomial has an error of 1e-7, too much for a float64 gradient check.
_erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu_tanh(x: Tensor) -> Tensor:
    """The approximation of GELU that GPT-2 uses: x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))."""
    scale = math.sqrt(2 / math.pi)
    curve = np.tanh(scale * (x.data + 0.044715 * x.data**3))

    def backward(g: Array) -> tuple[Array]:
        slope = (1 - curve * curve) * scale * (1 + 3 * 0.044715 * x.data**2)
        return (g * 0.5 * (1 + curve + x.data * slope),)

    return Tensor.from_operation(0.5 * x.data * (1 + curve), (x,), backward, "gelu_tanh")


def where(condition: Array | Tensor, a: ArrayLike, b: ArrayLike) -> Tensor:
    """a where the condition is true, b elsewhere. The gradient goes to the one that was taken.

    Args:
        condition: booleans; broadcast together with `a` and `b`.
    """
    condition = condition.data if isinstance(condition, Tensor) else condition  # for NumPy every object is true
    like = b if isinstance(b, Tensor) else Tensor(a)
    x, y = as_tensor(a, like), as_tensor(b, like)
    return Tensor.from_operation(
        np.where(condition, x.data, y.data),
        (x, y),
        lambda g: (unbroadcast(np.where(condition, g, 0), x.shape), unbroadcast(np.where(condition, 0, g), y.shape)),
        "where",
    )


def maximum(a: Tensor, b: ArrayLike) -> Tensor:
    """The larger of the two. Where they are equal, each gets half of the gradient, as in PyTorch."""
    other = as_tensor(b, a)
    to_a = 0.5 * ((a.data > other.data).astype(a.data.dtype) + (a.data >= other.data))
    return Tensor.from_operation(
        np.maximum(a.data, other.data),
        (a, other),
        lambda g: (unbroadcast(g * to_a, a.shape), unbroadcast(g * (1 - to_a), other.shape)),
        "maximum",
    )


# --- along an axis -------------------------------------------------------------------------------


def amax(x: Tensor, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The largest number over axes. If several are equally large, they share the gradient, as in `torch.amax`."""
    largest = x.data.max(axis=axis, keepdims=True)

    def backward(g: Array) -> tuple[Array]:
        chosen = x.data == largest
        return (restore_axes(g, x.shape, axis) * chosen / chosen.sum(axis=axis, keepdims=True),)

    return Tensor.from_operation(x.data.max(axis=axis, keepdims=keepdims), (x,), backward, "amax")


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """pᵢ = exp xᵢ / Σⱼ exp xⱼ: turns any numbers into probabilities.

    dpᵢ/dxⱼ = pᵢ (δᵢⱼ - pⱼ), so dL/dxⱼ = pⱼ (gⱼ - Σᵢ gᵢ pᵢ). The matrix over all i and j is never built.
    """
    p = np.exp(x.data - x.data.max(axis=axis, keepdims=True))  # exponents ≤ 0 cannot overflow
    p /= p.sum(axis=axis, keepdims=True)
    return Tensor.from_operation(p, (x,), lambda g: (p * (g - (g * p).sum(axis=axis, keepdims=True)),), "softmax")


def logsumexp(x: Tensor, axis: int = -1, keepdims: bool = False) -> Tensor:
    """ln Σ exp xᵢ = m + ln Σ exp(xᵢ - m). Here m is the largest xᵢ, so that exp cannot overflow.

    The derivative by xᵢ is the softmax.
    """
    shifted, total = _shifted_and_sum_of_exp(x.data, axis)
    out = x.data.max(axis=axis, keepdims=True) + np.log(total)
    return Tensor.from_operation(
        out if keepdims else out.squeeze(axis),
        (x,),
        lambda g: (restore_axes(g, x.shape, axis) * np.exp(shifted) / total,),
        "logsumexp",
    )


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """ln softmax(x) = x - logsumexp(x), which stays finite where softmax underflows to 0.

    dL/dxⱼ = gⱼ - pⱼ Σᵢ gᵢ.
    """
    shifted, total = _shifted_and_sum_of_exp(x.data, axis)
    out = shifted - np.log(total)
    return Tensor.from_operation(
        out, (x,), lambda g: (g - np.exp(out) * g.sum(axis=axis, keepdims=True),), "log_softmax"
    )


def _shifted_and_sum_of_exp(x: Array, axis: int) -> tuple[Array, Array]:
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted, np.exp(shifted).sum(axis=axis, keepdims=True)


def cross_entropy(logits: Tensor, targets: Array) -> Tensor:
    """Mean of -ln p(target), with p = softmax(logits), in nats.

    The gradient of softmax and logarithm together is very simple: p - y, where y is 1 at the target
    and 0 elsewhere. It also needs no division by a p that may be 0.

    Args:
        logits: (..., classes).
        targets: (...) integers below `classes`.

    Raises:
        ValueError: the shapes do not match, or a target is negative.
    """
    targets = np.asarray(targets)
    if logits.shape[:-1] != targets.shape:
        raise ValueError(f"targets of shape {targets.shape} do not go with logits of shape {logits.shape}")
    if targets.size and int(targets.min()) < 0:  # NumPy would count it from the end
        raise ValueError(f"targets must lie between 0 and {logits.shape[-1] - 1}, got {targets.min()}")
    shifted, total = _shifted_and_sum_of_exp(logits.data, -1)
    log_p = shifted - np.log(total)
    picked = np.take_along_axis(log_p, targets[..., None], -1)

    def backward(g: Array) -> tuple[Array]:
        gradient = np.exp(log_p)
        np.put_along_axis(gradient, targets[..., None], np.exp(picked) - 1, -1)
        return (gradient * (g / targets.size),)

    return Tensor.from_operation(-picked.mean(), (logits,), backward, "cross_entropy")


# --- gathering -----------------------------------------------------------------------------------


def embedding(table: Tensor, ids: Array) -> Tensor:
    """Rows of a table: (vocab, dim) and ids (...) → (..., dim).

    This is a product with one-hot rows without the multiplications by 0. In the gradient, each row of
    the table gets the sum over the places where it was used.

    Raises:
        IndexError: an id is negative or past the last row.
    """
    ids = np.asarray(ids)
    if ids.size and int(ids.min()) < 0:
        raise IndexError(f"ids must lie between 0 and {len(table.data) - 1}, got {ids.min()}")
    return Tensor.from_operation(
        table.data[ids],
        (table,),
        lambda g: (scatter_rows(g.reshape(ids.size, -1), ids.ravel(), len(table.data)),),
        "embedding",
    )


def scatter_rows(rows: Array, ids: Array, num_rows: int) -> Array:
    """Sum the rows that have the same id: the transpose of a gather.

    After sorting, equal ids are next to each other, and `np.add.reduceat` adds each run at once. That is
    several times faster than `np.add.at`.

    Args:
        rows: (count, dim).
        ids: (count,) integers from 0 to num_rows - 1.
        num_rows: how many rows the result has.

    Raises:
        ValueError: there is not exactly one id for each row.

    >>> scatter_rows(np.array([[1.0], [2.0], [4.0]]), np.array([2, 0, 2]), 3).ravel()
    array([2., 0., 5.])
    """
    if ids.shape != rows.shape[:1]:
        raise ValueError(f"each row needs one id, got {len(rows)} rows and ids of shape {ids.shape}")
    out = np.zeros((num_rows, rows.shape[1]), dtype=rows.dtype)
    if ids.size:
        order = np.argsort(ids, kind="stable")  # a radix sort for 8- and 16-bit integers
        sorted_ids = ids[order]
        starts = np.flatnonzero(np.concatenate(([True], sorted_ids[1:] != sorted_ids[:-1])))
        out[sorted_ids[starts]] = np.add.reduceat(rows[order], starts, axis=0)
    return out


def concatenate(tensors: Sequence[Tensor], axis: int = -1) -> Tensor:
    """Join tensors along an axis; the gradient is cut at the same places."""
    cuts = np.cumsum([tensor.shape[axis] for tensor in tensors])[:-1]
    return Tensor.from_operation(
        np.concatenate([tensor.data for tensor in tensors], axis=axis),
        tuple(tensors),
        lambda g: np.split(g, cuts, axis=axis),
        "concatenate",
    )
