"""Exercise 3.1: RMSNorm."""

from __future__ import annotations

import torch
from torch import Tensor

from transformer.layers import RMSNorm


def forward(self: RMSNorm, x: Tensor) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight, for each vector separately (Zhang & Sennrich, 2019).

    Args:
        self: the layer. `self.weight` is (d_model,) or None for no weight; `self.eps` is a number.
        x: (..., d_model).

    Returns:
        A tensor with the shape and type of `x`. (Under autocast x is bfloat16 and the weight float32: convert the weight.)
    """
    raise NotImplementedError("Exercise 3.1: divide by the root of the mean square")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator
from typing import Any

import torch.nn.functional as F

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """A vector; a batch; a weight; none; tiny numbers; bfloat16. The expected values come from PyTorch."""

    def question(what: str, x: Tensor, weight: bool = True, eps: float = 1e-5, tolerance: float | None = None) -> Case:
        layer = RMSNorm(x.shape[-1], eps, weight)
        if layer.weight is not None:
            layer.weight.data = 1 + 0.1 * torch.arange(x.shape[-1])
        scale = None if layer.weight is None else layer.weight.detach().to(x.dtype)
        expected = F.rms_norm(x, (x.shape[-1],), scale, eps)
        return Case(what, [layer, x], expected=expected, tolerance=tolerance, observe=lambda y, _: y.detach())

    random = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    yield question("the vector (3, 4), without a weight", torch.tensor([3.0, 4.0]), weight=False)
    yield question("the vector (3, 4), with a weight of (1, 1.1)", torch.tensor([3.0, 4.0]))
    yield question("a batch (2, 3, 4)", random)
    yield question("numbers near 0.001, where eps counts", random / 1000, eps=1e-5)
    yield question("a vector of zeros", torch.zeros(2, 3))
    yield question("one large vector and one small one", torch.tensor([[1e6, 2e6], [1e-6, 2e-6]]))
    yield question("another eps", random, eps=0.5)
    yield question("float64, in full precision", random.double())
    yield question("bfloat16 in, bfloat16 out", random.bfloat16(), tolerance=2e-2)


def _variant(self: RMSNorm, x: Tensor, **wrong: bool) -> Tensor:
    if wrong.get("centred"):
        x = x - x.mean(dim=-1, keepdim=True)
    x, dtype = (x if x.dtype == torch.float64 and not wrong.get("single") else x.float()), x.dtype
    square = x.square()
    size = square.sum(dim=-1, keepdim=True) if wrong.get("summed") else square.mean(dim=-1, keepdim=True)
    if wrong.get("variance") or wrong.get("sample_variance"):
        size = x.var(dim=-1, keepdim=True, correction=1 if wrong.get("sample_variance") else 0)
    if wrong.get("whole"):
        size = square.mean()
    root = size.sqrt() + self.eps if wrong.get("eps_outside") else (size + self.eps).sqrt()
    y = x / root
    y = y if wrong.get("float32") else y.to(dtype)
    return y if self.weight is None or wrong.get("no_weight") else y * self.weight.to(y.dtype)


def _mistaken(name: str) -> Callable[..., Any]:
    def forward(self: RMSNorm, x: Tensor) -> Tensor:
        return _variant(self, x, **{name: True})

    return forward


_VARIANCE = "this divides by the root of the variance, which subtracts the mean; use the mean of x²"

EXERCISE = Exercise(
    stub=forward,
    reference="transformer.layers:RMSNorm.forward",
    cases=cases,
    differentiable=True,
    hints=(
        "The mean is over the last axis only, and must broadcast against x again.",
        "Take the root of x.square().mean(dim=-1, keepdim=True) + eps. Then apply the weight, if there is one, in x's type.",
        "y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps); return y if self.weight is None else y * "
        "self.weight.to(x.dtype).",
    ),
    mistakes=(
        Mistake(
            _mistaken("summed"), "divide by the root of the *mean* of the squares: this is the length of the vector"
        ),
        Mistake(_mistaken("centred"), "nothing is subtracted: RMSNorm is layer norm without the mean"),
        Mistake(_mistaken("variance"), _VARIANCE),
        Mistake(_mistaken("sample_variance"), _VARIANCE),
        Mistake(_mistaken("no_weight"), "the weight is missing"),
        Mistake(_mistaken("whole"), "each vector is normalised separately: the mean is over the last axis"),
        Mistake(_mistaken("eps_outside"), "eps is added under the root"),
        Mistake(_mistaken("float32"), "the output has the type of x"),
        Mistake(_mistaken("single"), "float64 is computed in float32: keep at least the precision of x"),
    ),
)
