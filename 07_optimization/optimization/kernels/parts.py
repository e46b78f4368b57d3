"""The small parts of a block, for one row: norms, rotary positions, activations."""

from __future__ import annotations

import math

import numpy as np

from optimization.kernels.numbers import exponential, kernel, kernel_in_any_order

RELU, GELU, GELU_TANH, RELU2, SWIGLU, GEGLU = range(6)
FEED_FORWARDS = ("relu", "gelu", "gelu_tanh", "relu2", "swiglu", "geglu")


@kernel_in_any_order
def sum_of(x):
    """The sum of a vector."""
    total = np.float32(0)
    for j in range(x.size):
        total += x[j]
    return total


@kernel_in_any_order
def sum_of_squares(x, mean):
    """The sum of (x - mean)²."""
    total = np.float32(0)
    for j in range(x.size):
        total += (x[j] - mean) * (x[j] - mean)
    return total


@kernel
def normalise(x, centered, eps, weight, bias, y):
    """y = (x - mean) / sqrt(variance + eps) · weight + bias. Not centered, the mean counts as 0. y may be x."""
    size = np.float32(x.size)
    mean = sum_of(x) / size if centered else np.float32(0)
    factor = np.float32(1) / np.sqrt(sum_of_squares(x, mean) / size + np.float32(eps))
    for j in range(x.size):
        y[j] = (x[j] - mean) * factor * weight[j] + bias[j]


@kernel
def rotate(head, cos, signed_sin):
    """Turn the pairs (i, i + half) of a head's first numbers, in place; see `transformer.positional_encoding`."""
    half = cos.size // 2
    for i in range(half):
        first, second = head[i], head[i + half]
        head[i] = first * cos[i] + second * signed_sin[i]
        head[i + half] = second * cos[i + half] + first * signed_sin[i + half]


@kernel
def activate(kind, gate, up):
    """Replace the output of the first matrix of a feed-forward by what its last matrix reads.

    Args:
        kind: index in `FEED_FORWARDS`.
        gate: the output, or the part that goes through the activation. It is replaced.
        up: what it is multiplied with if there is a gate.
    """
    if kind == SWIGLU:
        for j in range(gate.size):
            gate[j] = gate[j] / (np.float32(1) + exponential(-gate[j])) * up[j]
    elif kind == GEGLU:
        for j in range(gate.size):
            gate[j] = gelu_tanh(gate[j]) * up[j]
    elif kind == GELU_TANH:
        for j in range(gate.size):
            gate[j] = gelu_tanh(gate[j])
    elif kind == GELU:
        for j in range(gate.size):
            gate[j] = np.float32(0.5) * gate[j] * (np.float32(1) + math.erf(gate[j] * np.float32(math.sqrt(0.5))))
    else:
        for j in range(gate.size):
            positive = np.float32(0) if gate[j] < 0 else gate[j]  # nan stays nan
            gate[j] = positive * positive if kind == RELU2 else positive


@kernel
def gelu_tanh(x):
    """x / 2 · (1 + tanh(z)) = x · sigmoid(2z)."""
    z = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    return x / (np.float32(1) + exponential(np.float32(-2) * z))
