"""Exercise 3.2: SwiGLU."""

from __future__ import annotations

import torch
from torch import Tensor

from transformer.feed_forward import SwiGLU


def forward(self: SwiGLU, x: Tensor) -> Tensor:
    """down(silu(gate(x)) · up(x)) with silu(x) = x · sigmoid(x) (Shazeer, 2020).

    Args:
        self: the layer; `self.gate`, `self.up` and `self.down` are its three linear maps.
        x: (..., d_model).

    Returns:
        (..., d_model).
    """
    raise NotImplementedError("Exercise 3.2: a gate beside the way up")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F

from learn.exercise import Case, Exercise, Mistake


def _detached(result: Any, arguments: Any) -> Tensor:
    assert isinstance(result, Tensor)
    return result.detach()


def cases() -> Iterator[Case]:
    """A vector, a batch, biases."""

    def layer(bias: bool = False) -> SwiGLU:
        torch.manual_seed(0)
        made = SwiGLU(4, 6, bias).double()
        if bias:
            for linear in (made.gate, made.up, made.down):
                torch.nn.init.normal_(linear.bias)
        return made

    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    yield Case("one vector", [layer(), x[0, 0]], observe=_detached)
    yield Case("a batch (2, 3, 4)", [layer(), x], observe=_detached)
    yield Case("with biases, large numbers", [layer(bias=True), 20 * x], observe=_detached)
    yield Case("a gate of -1,000, where exp overflows", [layer(), -1000 * x[:1, :1]], observe=_detached)


def _exchanged(self: SwiGLU, x: Tensor) -> Tensor:
    y: Tensor = self.down(F.silu(self.up(x)) * self.gate(x))
    return y


def _sigmoid(self: SwiGLU, x: Tensor) -> Tensor:
    y: Tensor = self.down(self.gate(x).sigmoid() * self.up(x))
    return y


def _gelu(self: SwiGLU, x: Tensor) -> Tensor:
    y: Tensor = self.down(F.gelu(self.gate(x)) * self.up(x))
    return y


def _late(self: SwiGLU, x: Tensor) -> Tensor:
    y: Tensor = self.down(F.silu(self.gate(x) * self.up(x)))
    return y


EXERCISE = Exercise(
    stub=forward,
    reference="transformer.feed_forward:SwiGLU.forward",
    cases=cases,
    differentiable=True,
    hints=(
        "There are two ways up, side by side, and one of them has an activation. Their product goes down.",
        "silu is torch.nn.functional.silu, or y * y.sigmoid() with y = self.gate(x). Multiply element by element.",
        "gate = self.gate(x); return self.down(gate * gate.sigmoid() * self.up(x)).",
    ),
    mistakes=(
        Mistake(_exchanged, "the activation belongs to the gate, not to the way up"),
        Mistake(_sigmoid, "silu is x · sigmoid(x), not sigmoid(x) alone (that is the older GLU)"),
        Mistake(_gelu, "the activation is silu, not gelu (that would be GEGLU)"),
        Mistake(_late, "the activation comes before the product"),
    ),
)
