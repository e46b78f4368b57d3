"""Normalisation: what keeps activations at a steady size from layer to layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) · weight + bias (Ba et al., 2016), with an optional bias.

    Args:
        d_model: size of the last axis.
        eps: added to the variance; keeps a constant vector finite.
        bias: whether to learn a shift.
    """

    def __init__(self, d_model: int, eps: float = 1e-5, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_model) → (..., d_model)."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight (Zhang & Sennrich, 2019): layer norm without the mean.

    Args:
        d_model: size of the last axis.
        eps: added to the mean square.
    """

    def __init__(self, d_model: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_model) → (..., d_model)."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def build_norm(kind: str, d_model: int, eps: float, bias: bool) -> nn.Module:
    """The norm that a configuration names: `layernorm` or `rmsnorm`."""
    if kind == "layernorm":
        return LayerNorm(d_model, eps, bias)
    if kind == "rmsnorm":
        return RMSNorm(d_model, eps)
    raise ValueError(f"unknown norm {kind!r}; the choices are layernorm and rmsnorm")
