"""The feed-forward part of a block: each position on its own, up to a wider space and back."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Module):
    """down(activation(up(x))).

    Args:
        d_model: width of the input and output.
        d_ff: width in between, usually 4 · d_model.
        activation: `gelu` (Hendrycks & Gimpel, 2016), `gelu_tanh` (its approximation, which GPT-2
            was trained with) or `relu2` (relu(x)², So et al., 2021: "Primer").
        bias: whether the projections add a bias.
    """

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", bias: bool = True):
        super().__init__()
        if activation not in ("gelu", "gelu_tanh", "relu2"):
            raise ValueError(f"unknown activation {activation!r}; the choices are gelu, gelu_tanh and relu2")
        self.activation = activation
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_model) → (..., d_model)."""
        hidden = self.up(x)
        if self.activation == "relu2":
            hidden = F.relu(hidden).square()
        else:
            hidden = F.gelu(hidden, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        return self.down(hidden)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)) (Shazeer, 2020: "GLU Variants Improve Transformer").

    It has three matrices where `FeedForward` has two, so d_ff = 8/3 · d_model has the parameters of
    a plain layer at 4 · d_model.
    """

    def __init__(self, d_model: int, d_ff: int, bias: bool = False):
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias=bias)
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_model) → (..., d_model)."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


def default_d_ff(kind: str, d_model: int) -> int:
    """The customary inner width: 4 · d_model, or 8/3 of it rounded up to 32 for SwiGLU."""
    return -(-8 * d_model // 3 // 32) * 32 if kind == "swiglu" else 4 * d_model


def build_feed_forward(kind: str, d_model: int, d_ff: int, bias: bool) -> nn.Module:
    """The feed-forward that a configuration names: `gelu`, `gelu_tanh`, `relu2` or `swiglu`."""
    if kind == "swiglu":
        return SwiGLU(d_model, d_ff, bias)
    return FeedForward(d_model, d_ff, kind, bias)
