"""Exercise 6.4: Merge a correction into the weights."""

from __future__ import annotations

from torch import Tensor, nn

from finetuning.adapters.lora import LoRAAdapter


def merged_weight(self: LoRAAdapter, base: nn.Linear) -> Tensor:
    """W' = W + s · B A, so that the correction costs nothing after training.

    `base.weight` itself must not change. With DoRA each row then gets its length: row i of W' is
    mᵢ · (W + s B A)ᵢ / ‖(W + s B A)ᵢ‖.

    Args:
        self: the adapter; see exercise 6.3.
        base: the layer, with `weight` W (out, in).

    Returns:
        (out, in).
    """
    raise NotImplementedError("Exercise 6.4: one matrix instead of three")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from finetuning.adapters.lora import LoRAConfig
from learn.exercise import Case, Exercise, Mistake


def _result_and_base(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    adapter, base = arguments
    kept = {f"{name} afterwards": parameter.detach() for name, parameter in adapter.named_parameters()}
    return {"result": result.detach(), "base.weight": base.weight.detach(), **kept}


def cases() -> Iterator[Case]:
    """LoRA, LoRA of a square matrix, rank-stabilised, DoRA."""

    def question(what: str, width: int = 6, **settings: Any) -> Case:
        torch.manual_seed(0)
        base = nn.Linear(width, 4, bias=False).double()
        adapter = LoRAAdapter(base, LoRAConfig(rank=2, **settings)).double()
        nn.init.normal_(adapter.lora_b)
        if adapter.magnitude is not None:
            adapter.magnitude.data *= torch.rand(4) + 0.5
        return Case(what, [adapter, base], observe=_result_and_base)

    yield question("a 4 × 6 matrix")
    yield question("a square matrix, alpha 1", width=4, alpha=1.0)
    yield question("alpha divided by the root of the rank", rank_stabilised=True)
    yield question("DoRA", dora=True)
    yield question("DoRA of a square matrix", width=4, dora=True)


def _merged(self: LoRAAdapter, base: nn.Linear, **wrong: bool) -> Tensor:
    scale = 1.0 if wrong.get("unscaled") or wrong.get("b_changed") else self.config.scale
    if wrong.get("b_changed"):
        self.lora_b.data *= self.config.scale
    product = (self.lora_a.T @ self.lora_b.T) if wrong.get("transposed") else self.lora_b @ self.lora_a
    if wrong.get("over_rank"):
        scale = self.config.alpha / self.config.rank
    weight = base.weight + scale * product
    if wrong.get("base_changed"):
        base.weight.data.copy_(weight)
    if self.magnitude is None or wrong.get("no_dora"):
        return weight
    if wrong.get("columns"):
        return weight * (self.magnitude / weight.norm(dim=0))
    if wrong.get("not_divided"):
        return weight * self.magnitude[:, None]
    if wrong.get("weight_alone"):
        return weight * (self.magnitude / base.weight.norm(dim=1))[:, None]
    return weight * (self.magnitude / weight.norm(dim=1))[:, None]


def _mistaken(name: str) -> Callable[..., Any]:
    def merged_weight(self: LoRAAdapter, base: nn.Linear) -> Tensor:
        return _merged(self, base, **{name: True})

    return merged_weight


EXERCISE = Exercise(
    stub=merged_weight,
    reference="finetuning.adapters.lora:LoRAAdapter.merged_weight",
    cases=cases,
    in_place=True,
    hints=(
        "B A has the shape of W: (out, rank) times (rank, in).",
        "For DoRA divide each row by its length and multiply by its m: a factor for each row is a column, [:, None].",
        "weight = base.weight + self.config.scale * (self.lora_b @ self.lora_a); DoRA: weight * (self.magnitude / "
        "weight.norm(dim=1))[:, None].",
    ),
    mistakes=(
        Mistake(_mistaken("base_changed"), "base.weight itself must stay as it is: make a new tensor"),
        Mistake(_mistaken("weight_alone"), "the norm is of the corrected weight W + s B A, not of W alone"),
        Mistake(_mistaken("unscaled"), "the correction is multiplied by s = self.config.scale"),
        Mistake(
            _mistaken("over_rank"),
            "s is alpha / sqrt(rank) if the adapter is rank-stabilised; self.config.scale is right in both cases",
        ),
        Mistake(_mistaken("b_changed"), "the adapter must stay as it is: do not multiply B itself by s"),
        Mistake(_mistaken("transposed"), "the product is B A, (out, rank) times (rank, in), not Aᵀ Bᵀ"),
        Mistake(_mistaken("no_dora"), "where self.magnitude is not None, the rows get lengths of their own"),
        Mistake(_mistaken("not_divided"), "divide the rows by their lengths before you multiply them by m"),
        Mistake(_mistaken("columns"), "m has one length for each row of W, not for each column"),
    ),
)
