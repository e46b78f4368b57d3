"""Exercise 5.6: AdamW."""

from __future__ import annotations

import torch

from training.optimizers.adamw import AdamW


@torch.no_grad()
def update(self: AdamW) -> None:
    """Change every parameter that has a gradient, in place (Loshchilov & Hutter, 2019).

        m ← β₁ m + (1 - β₁) g
        v ← β₂ v + (1 - β₂) g²
        θ ← θ - η λ θ - η · (m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + ε)

    The decay acts on θ itself and is not a part of g. t counts the steps of the parameter, from 1.

    Args:
        self: the optimizer. `self.param_groups` is a list of dictionaries with the parameters in "params" and "lr" (η),
            "betas" (β₁ and β₂), "eps" (ε) and "weight_decay" (λ). `self.state[parameter]` is a dictionary, empty at first.
            Keep in it "step", a float32 tensor of shape () such as `torch.tensor(0.0)`, "exp_avg" (m) and "exp_avg_sq" (v),
            as the checkpoint expects them.
    """
    raise NotImplementedError("Exercise 5.6: one step of AdamW")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def _after(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    optimizer: AdamW = arguments[0]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names = ("exp_avg", "exp_avg_sq", "step")
    states = [{n: optimizer.state[p].get(n) for n in names} if p.grad is not None else {} for p in parameters]
    return {"parameters": [p.detach() for p in parameters], "state": states}


def _optimizer(kind: Any, settings: dict[str, Any]) -> Any:
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(3)]
    for index, parameter in enumerate(parameters):
        parameter.grad = None if index == 1 else torch.randn(3, generator=generator, dtype=torch.float64)
    return kind([{"params": parameters[:2]}, {"params": parameters[2:], "weight_decay": 0.0}], **settings)


def cases() -> Iterator[Case]:
    """The first step; decay; the fourth step; settings. The expected values come from torch.optim.AdamW."""
    for what, before, settings in (
        ("the first step without decay", 0, {"lr": 0.1, "weight_decay": 0.0}),
        ("the first step with a decay of 0.5 for the first group", 0, {"lr": 0.1, "weight_decay": 0.5}),
        ("the fourth step", 3, {"lr": 0.1, "weight_decay": 0.5}),
        ("the third step with betas 0.5 and 0.9", 2, {"lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0.1}),
        ("a large eps, 0.1", 1, {"lr": 0.1, "eps": 0.1, "weight_decay": 0.1}),
    ):
        theirs = _optimizer(torch.optim.AdamW, settings)
        for _ in range(before + 1):
            theirs.step()
        optimizer = _optimizer(AdamW, settings)
        for _ in range(before):
            optimizer.step()
        yield Case(what, [optimizer], expected=_after(None, [theirs]), observe=_after)


@torch.no_grad()
def _step(self: AdamW, **wrong: bool) -> None:
    for group in self.param_groups:
        lr, (beta1, beta2) = group["lr"], group["betas"]
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
            state["step"] += 1
            t = state["step"].item() if not wrong.get("uncorrected") else math.inf
            t += int(wrong.get("ahead", False)) - int(wrong.get("behind", False))
            g = p.grad
            if wrong.get("coupled"):
                g = g + group["weight_decay"] * p
            state["exp_avg"] = beta1 * state["exp_avg"] + (1 - beta1) * g
            state["exp_avg_sq"] = beta2 * state["exp_avg_sq"] + (1 - beta2) * g * g
            mean = state["exp_avg"] / (1 - beta1**t)
            size = (state["exp_avg_sq"] / (1.0 if wrong.get("v_uncorrected") else 1 - beta2**t)).sqrt() + group["eps"]
            if wrong.get("eps_inside"):
                size = (state["exp_avg_sq"] / (1 - beta2**t) + group["eps"]).sqrt()
            late = lr * mean / size if wrong.get("decay_late") else 0.0
            if not wrong.get("coupled") and not wrong.get("no_decay"):
                p.sub_(late).mul_(1 - (1.0 if wrong.get("decay_without_lr") else lr) * group["weight_decay"])
            if not wrong.get("decay_late"):
                p -= lr * mean / size


def _mistaken(name: str) -> Callable[..., Any]:
    def update(self: AdamW) -> None:
        _step(self, **{name: True})

    return update


@torch.no_grad()
def _division_by_zero(self: AdamW) -> None:
    group = self.param_groups[0]
    group["lr"] / (1 - group["betas"][0] ** 0.0)


_FROM_ONE = "t is 1 at the first step of a parameter, since 1 - β⁰ is 0: raise `step` first"

EXERCISE = Exercise(
    stub=update,
    reference="training.optimizers.adamw:AdamW.update",
    cases=cases,
    in_place=True,
    hints=(
        "Exercise 1.9 is the same without the decay. Groups are new here, and each parameter has a state that is made at its "
        "first step.",
        "if not state: step = torch.zeros(()), exp_avg and exp_avg_sq = torch.zeros_like(parameter). The decay is p.mul_(1 - "
        "lr * weight_decay), beside the step.",
        "state['step'] += 1; t = state['step'].item(); m.lerp_(p.grad, 1 - beta1); v.mul_(beta2).addcmul_(p.grad, p.grad, "
        "value=1 - beta2); p.mul_(1 - lr * decay); p.addcdiv_(m, (v / (1 - beta2**t)).sqrt() + eps, value=-lr / (1 - beta1**t)).",
    ),
    mistakes=(
        Mistake(_mistaken("uncorrected"), "both means start at 0 and must be corrected by 1 - βᵗ"),
        Mistake(_mistaken("v_uncorrected"), "v starts at 0 like m: it must be corrected by 1 - β₂ᵗ"),
        Mistake(_mistaken("behind"), _FROM_ONE),
        Mistake(_division_by_zero, _FROM_ONE),
        Mistake(_mistaken("ahead"), "t is 1 at the first step of a parameter; here it is 2"),
        Mistake(_mistaken("decay_late"), "the decay acts on θ as it was before the step, not after it"),
        Mistake(_mistaken("no_decay"), "the weight decay is missing"),
        Mistake(
            _mistaken("coupled"),
            "the decay is added to the gradient (Adam with L2): it then gets divided by √v like the rest",
        ),
        Mistake(_mistaken("decay_without_lr"), "the decay is multiplied by the learning rate: θ - η λ θ"),
        Mistake(_mistaken("eps_inside"), "ε is added to the root, not under it"),
    ),
)
