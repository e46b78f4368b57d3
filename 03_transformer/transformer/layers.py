"""The small layers: linear maps, embeddings, normalisation, dropout.

`Linear` and `Embedding` are those of PyTorch with the initialisation of modern language models. They are
subclasses, so all code that looks for PyTorch's layers finds them (LoRA, quantization, optimizers).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def truncated_normal_(weight: Tensor, std: float) -> Tensor:
    """Fill in place from a normal distribution, cut off at 3 standard deviations.

    A normal distribution gives a number outside this range once in 370 draws. In a matrix of millions that
    makes thousands of outliers, which training first has to shrink. A standard deviation of 0 gives zeros.
    """
    # If u is uniform, Φ⁻¹(u) is normal. Drawing u between Φ(-3) and Φ(3) cuts the tails off.
    # The code uses erf(z / √2) = 2Φ(z) - 1.
    bound = math.erf(3 / math.sqrt(2))
    with torch.no_grad():
        return weight.uniform_(-bound, bound).erfinv_().mul_(std * math.sqrt(2))


class Linear(nn.Linear):
    """y = x Wᵀ + b, with W of shape (out_features, in_features).

    W starts with variance 2 / (in + out). This keeps the size of activations in the forward pass and of
    gradients in the backward pass about the same (Glorot & Bengio, 2010). b starts at zero.

    >>> Linear(3, 2, bias=False)(torch.ones(5, 3)).shape
    torch.Size([5, 2])
    """

    def reset_parameters(self) -> None:
        """Draw the weights again."""
        truncated_normal_(self.weight, (2 / (self.in_features + self.out_features)) ** 0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """Gives row i of a table for id i. This equals a linear map of a one-hot vector, without the zeros.

    >>> Embedding(10, 4)(torch.tensor([[1, 2, 1]])).shape
    torch.Size([1, 3, 4])
    """

    def reset_parameters(self) -> None:
        """Draw the table again, with a standard deviation of 0.02 as in GPT-2."""
        truncated_normal_(self.weight, 0.02)


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
        weight: whether to learn a scale for each dimension.
        plus_one: the scale is 1 + weight, so that weight decay pulls it towards 1 and not towards 0 (Gemma).
    """

    def __init__(self, d_model: int, eps: float = 1e-5, weight: bool = True, plus_one: bool = False):
        super().__init__()
        start = torch.zeros(d_model) if plus_one else torch.ones(d_model)
        self.weight = nn.Parameter(start) if weight else None
        self.shape, self.eps, self.plus_one = (d_model,), eps, plus_one

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_model) → (..., d_model)."""
        scale: Tensor | None = self.weight
        if scale is not None:
            # 1 + weight in float32: bfloat16 has 8 bits, and next to 1 most of a small weight would be lost.
            scale = scale.float() + 1 if self.plus_one else scale
            # Use the precision of x: under autocast the weight is float32, and PyTorch fuses only equal types.
            scale = scale.to(x.dtype)
        return F.rms_norm(x, self.shape, scale, self.eps)


class Dropout(nn.Module):
    """While training, x · mask / (1 - p), where the mask is 0 with probability p and 1 otherwise.

    The division by 1 - p keeps the expected value, so that nothing has to change when the model is
    evaluated (Srivastava et al., 2014).

    Args:
        p: probability of dropping a number, at least 0 and below 1.

    Raises:
        ValueError: p is not such a probability.
    """

    def __init__(self, p: float):
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"the probability of dropping must be at least 0 and below 1, got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same shape."""
        return F.dropout(x, self.p, self.training) if self.p else x


def build_norm(kind: str, d_model: int, eps: float, bias: bool) -> nn.Module:
    """Build the norm that a configuration names: `layernorm`, `rmsnorm` or `rmsnorm_plus_one`."""
    if kind == "layernorm":
        return LayerNorm(d_model, eps, bias)
    if kind in ("rmsnorm", "rmsnorm_plus_one"):
        return RMSNorm(d_model, eps, plus_one=kind == "rmsnorm_plus_one")
    raise ValueError(f"unknown norm {kind!r}; the choices are layernorm, rmsnorm and rmsnorm_plus_one")
