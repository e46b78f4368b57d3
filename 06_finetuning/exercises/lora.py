"""Exercise 6.3: The forward pass of LoRA."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from finetuning.adapters.lora import LoRAAdapter


def forward(self: LoRAAdapter, x: Tensor, base: nn.Linear) -> Tensor:
    """Output of a linear layer with its correction (Hu et al., 2021).

        y = base(x) + s · dropout(x) Aᵀ Bᵀ

    It is cheaper to multiply from the left: x Aᵀ has only `rank` numbers for each vector, while B A is a full matrix.

    With DoRA (Liu et al., 2024), the rows of the corrected weight W + s B A get their own lengths m. The outputs
    without the bias are multiplied by m / ‖W + s B A‖, one factor for each row, and the bias is added afterwards. The
    norm is treated as a constant in the backward pass.

    Args:
        self: the adapter. `self.lora_a` is A (rank, in), `self.lora_b` is B (out, rank). `self.config.scale` is s, the
            lesson's α/r (α/√r if rank-stabilised). `self.magnitude` is m (out,) for DoRA, otherwise None. Dropout is
            `F.dropout(x, self.config.dropout, self.training)`. (With DoRA the package also applies dropout to what goes
            into W. The questions on DoRA have no dropout.)
        x: (..., in).
        base: the frozen layer, with `weight` W (out, in) and `bias`, which may be None.

    Returns:
        (..., out).
    """
    raise NotImplementedError("Exercise 6.3: a layer and its correction")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from finetuning.adapters.lora import LoRAConfig
from learn.exercise import Case, Exercise, Mistake


def _value_and_gradients(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    adapter, x, base = arguments
    result.sin().sum().backward()
    gradients = {f"gradient of {name}": parameter.grad for name, parameter in adapter.named_parameters()}
    kept = {"base.weight afterwards": base.weight.detach(), "x afterwards": x.detach()}
    return {"output": result.detach(), **gradients, "gradient of x": x.grad, **kept}


def cases() -> Iterator[Case]:
    """A fresh adapter; a trained one; a bias; dropout; one vector; DoRA."""

    def question(
        what: str,
        fresh: bool = False,
        bias: bool = False,
        training: bool = False,
        single: bool = False,
        **settings: Any,
    ) -> Case:
        torch.manual_seed(0)
        base = nn.Linear(6, 4, bias=bias).double().requires_grad_(False)
        adapter = LoRAAdapter(base, LoRAConfig(rank=2, **settings)).double().train(training)
        if not fresh:
            nn.init.normal_(adapter.lora_b)
        if adapter.magnitude is not None:
            adapter.magnitude.data *= torch.rand(4) + 0.5
        x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        x = (x[0, 0].clone() if single else x).requires_grad_()
        return Case(what, [adapter, x, base], observe=_value_and_gradients)

    yield question("a fresh adapter, whose B is 0", fresh=True)
    yield question("after some training, alpha 16 and rank 2")
    yield question("alpha 3", alpha=3.0)
    yield question("alpha 3, divided by the root of the rank", alpha=3.0, rank_stabilised=True)
    yield question("a base with a bias", bias=True)
    yield question("dropout of 0.5 while training", training=True, dropout=0.5)
    yield question("dropout of 0.5, not training", dropout=0.5)
    yield question("x is one vector (in,)", single=True)
    yield question("DoRA", dora=True)
    yield question("DoRA with a bias", dora=True, bias=True)


def _forward(self: LoRAAdapter, x: Tensor, base: nn.Linear, **wrong: bool) -> Tensor:
    training = self.training or bool(wrong.get("always_dropped"))
    dropped = x if wrong.get("no_dropout") else F.dropout(x, self.config.dropout, training)
    scale = self.config.scale
    if wrong.get("unscaled"):
        scale = 1.0
    if wrong.get("alpha_alone"):
        scale = self.config.alpha
    if wrong.get("over_rank"):
        scale = self.config.alpha / self.config.rank
    correction = scale * (dropped @ self.lora_a.T @ self.lora_b.T)
    if wrong.get("merged"):
        base.weight.data += scale * (self.lora_b @ self.lora_a)
        return base(x) + 0 * correction
    if wrong.get("three_axes"):
        correction = scale * torch.einsum("bti,ri,or->bto", dropped, self.lora_a, self.lora_b)
    if wrong.get("x_detached"):
        correction = scale * (dropped.detach() @ self.lora_a.T @ self.lora_b.T)
    if self.magnitude is None or wrong.get("no_dora"):
        kept = F.linear(dropped, base.weight, base.bias) if wrong.get("base_dropped") else base(x)
        return kept + correction
    corrected = base.weight if wrong.get("weight_alone") else base.weight + scale * (self.lora_b @ self.lora_a)
    lengths = corrected.norm(dim=0 if wrong.get("columns") else 1)
    if not wrong.get("norm_differentiated"):
        lengths = lengths.detach()
    if wrong.get("bias_scaled"):
        out: Tensor = self.magnitude / lengths * (base(x) + correction)
        return out
    out = self.magnitude / lengths * (F.linear(x, base.weight) + correction)
    return out if base.bias is None else out + base.bias


def _mistaken(name: str) -> Callable[..., Any]:
    def forward(self: LoRAAdapter, x: Tensor, base: nn.Linear) -> Tensor:
        return _forward(self, x, base, **{name: True})

    return forward


EXERCISE = Exercise(
    stub=forward,
    reference="finetuning.adapters.lora:LoRAAdapter.forward",
    cases=cases,
    in_place=True,
    hints=(
        "Write y = base(x) + correction first, and return it if self.magnitude is None. Seven questions need no more.",
        "The correction is s times dropped @ A.T @ B.T. For DoRA: lengths = (W + s B A).norm(dim=1).detach(); the factor "
        "m / lengths multiplies F.linear(x, W) + correction, and the bias comes after.",
        "correction = self.config.scale * (dropped @ self.lora_a.T @ self.lora_b.T), with dropped = F.dropout(x, "
        "self.config.dropout, self.training).",
    ),
    mistakes=(
        Mistake(_mistaken("unscaled"), "the correction is multiplied by s = self.config.scale"),
        Mistake(_mistaken("alpha_alone"), "s is alpha / rank, so that the rank can be changed without a new alpha"),
        Mistake(
            _mistaken("over_rank"),
            "s is alpha / sqrt(rank) if the adapter is rank-stabilised; self.config.scale is right in both cases",
        ),
        Mistake(_mistaken("no_dropout"), "dropout applies to the correction's input while training"),
        Mistake(_mistaken("base_dropped"), "only the correction has dropout; the base layer reads x itself"),
        Mistake(_mistaken("always_dropped"), "there is no dropout outside training: pass self.training"),
        Mistake(
            _mistaken("merged"), "base.weight itself must stay: at the next call the correction would be in it twice"
        ),
        Mistake(
            _mistaken("x_detached"), "gradients flow to x through the correction too, since there are layers below"
        ),
        Mistake(_mistaken("three_axes"), "x may have any number of axes: @ with a matrix takes all of them"),
        Mistake(_mistaken("columns"), "one norm for each row of W + s B A: sum over its columns, dim=1"),
        Mistake(_mistaken("weight_alone"), "the norm is of the corrected weight W + s B A, not of W alone"),
        Mistake(_mistaken("no_dora"), "where self.magnitude is not None, the rows get lengths of their own"),
        Mistake(_mistaken("norm_differentiated"), "the norm is a constant in the backward pass: detach it"),
        Mistake(_mistaken("bias_scaled"), "the factor does not act on the bias: add the bias last"),
    ),
)
