"""The feed-forward part of a block maps each position separately to a wider space and back.

python -m transformer.feed_forward
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transformer.layers import Linear


def relu2(x: Tensor) -> Tensor:
    """relu(x)² (So et al., 2021: "Primer"): sparse like ReLU, with a slope that starts at zero."""
    return F.relu(x).square()


def gelu(x: Tensor) -> Tensor:
    """x · Φ(x), where Φ is the normal distribution function (Hendrycks & Gimpel, 2016)."""
    return F.gelu(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """x / 2 · (1 + tanh(sqrt(2 / π) (x + 0.044715 x³))): the approximation that GPT-2 was trained with."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu2": relu2,
}


class FeedForward(nn.Module):
    """down(activation(up(x))).

    Args:
        d_model: width of the input and output.
        d_ff: width in between, usually 4 · d_model.
        activation: a name from `ACTIVATIONS`.
        bias: whether the projections add a bias.

    Raises:
        ValueError: the activation is unknown.
    """

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", bias: bool = True):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}; the choices are {', '.join(ACTIVATIONS)}")
        self.activation = ACTIVATIONS[activation]
        self.up = Linear(d_model, d_ff, bias=bias)
        self.down = Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_model) → (..., d_model)."""
        return self.down(self.activation(self.up(x)))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)), silu(x) = x · sigmoid(x) (Shazeer, 2020: "GLU Variants Improve Transformer").

    It has three matrices and `FeedForward` has two. So with d_ff = 8/3 · d_model it has as many parameters
    as a plain layer with 4 · d_model. With another activation of the gate it gets another name: GEGLU with GELU.

    Args:
        d_model: width of the input and output.
        d_ff: width in between.
        bias: whether the projections add a bias.
        activation: applied to the gate.
    """

    def __init__(self, d_model: int, d_ff: int, bias: bool = False, activation: Callable[[Tensor], Tensor] = F.silu):
        super().__init__()
        self.activation = activation
        self.gate = Linear(d_model, d_ff, bias=bias)
        self.up = Linear(d_model, d_ff, bias=bias)
        self.down = Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_model) → (..., d_model)."""
        return self.down(self.activation(self.gate(x)) * self.up(x))


# Feed-forwards with a gate, by the activation of the gate. Gemma's GEGLU uses the approximation.
GATED: dict[str, Callable[[Tensor], Tensor]] = {"swiglu": F.silu, "geglu": gelu_tanh}


def default_d_ff(kind: str, d_model: int) -> int:
    """The usual inner width: 4 · d_model, or with a gate 8/3 · d_model rounded up to a multiple of 32."""
    return -(-8 * d_model // 3 // 32) * 32 if kind in GATED else 4 * d_model


def build_feed_forward(kind: str, d_model: int, d_ff: int, bias: bool) -> nn.Module:
    """Build the feed-forward that a configuration names: one of `GATED`, or the activation of a `FeedForward`."""
    if kind in GATED:
        return SwiGLU(d_model, d_ff, bias, GATED[kind])
    return FeedForward(d_model, d_ff, kind, bias)


def main() -> None:
    """Print the activations at a few points."""
    points = torch.tensor([-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0])
    print("x         " + "".join(f"{x:8.2f}" for x in points.tolist()))
    for name, activation in {**ACTIVATIONS, "silu": F.silu}.items():
        print(f"{name:10}" + "".join(f"{y:8.4f}" for y in activation(points).tolist()))


if __name__ == "__main__":
    main()
