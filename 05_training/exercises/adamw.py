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
            as the checkpoint expects them. `parameter.grad` must not change.
    """
    raise NotImplementedError("Exercise 5.6: one step of AdamW")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from learn.exercise import Case, Exercise, Mistake, Observe


def _parameters(optimizer: Any) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _observing(optimizer: Any) -> Observe:
    """Return parameters, gradients and state, and whether the parameters have the memory that they had."""
    places = [parameter.data_ptr() for parameter in _parameters(optimizer)]

    def observe(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
        parameters, state = _parameters(arguments[0]), arguments[0].state
        names = ("exp_avg", "exp_avg_sq", "step")
        return {
            "parameters": [p.detach() for p in parameters],
            "state": [{n: state[p].get(n) for n in names} if p.grad is not None else {} for p in parameters],
            "gradients": [p.grad for p in parameters],
            "parameters are where they were": [p.data_ptr() for p in parameters] == places,
        }

    return observe


def _optimizer(kind: Any, settings: dict[str, Any], device: str = "cpu") -> Any:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(3, 2, 2, 3, generator=generator, dtype=torch.float64).to(device)
    parameters = [value.clone().requires_grad_() for value in numbers[:, 0]]
    for parameter, gradient in zip(parameters, numbers[:, 1], strict=True):
        parameter.grad = gradient.clone()
    parameters[1].grad = None
    second = settings.pop("second", {"weight_decay": 0.0})
    return kind([{"params": parameters[:2]}, {"params": parameters[2:], **second}], lr=0.1, **settings)


def _devices(result: Any, arguments: Sequence[Any]) -> list[str]:
    parameters = _parameters(arguments[0])
    return [str(arguments[0].state[p]["exp_avg"].device) for p in parameters if p.grad is not None]


def _late(parameters: Sequence[Tensor]) -> None:
    parameters[1].grad = torch.ones_like(parameters[1])


def _zeros(parameters: Sequence[Tensor]) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.zero_()


def _transposed(parameters: Sequence[Tensor]) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = parameter.grad.mT.contiguous().mT


def _as_it_is(parameters: Sequence[Tensor]) -> None:
    pass


def cases() -> Iterator[Case]:
    """The first step; decay; later steps; gradients of zeros; settings; a late one; not contiguous; another device.

    Expected values come from torch.optim.AdamW.
    """
    other = {"lr": 0.02, "betas": (0.6, 0.7), "eps": 0.5, "weight_decay": 0.3}
    for what, before, change, settings in (
        ("the first step without decay", 0, _as_it_is, {"weight_decay": 0.0}),
        ("the first step with a decay of 0.5 for the first group", 0, _as_it_is, {"weight_decay": 0.5}),
        ("the fourth step", 3, _as_it_is, {"weight_decay": 0.5}),
        ("the fourth step, where zero_grad(set_to_none=False) has left gradients of zeros", 3, _zeros,
         {"weight_decay": 0.5}),
        ("the third step with betas 0.5 and 0.9", 2, _as_it_is, {"betas": (0.5, 0.9), "weight_decay": 0.1}),
        ("a large eps, 0.1", 1, _as_it_is, {"eps": 0.1, "weight_decay": 0.1}),
        ("a second group with its own rate, betas and eps", 1, _as_it_is, {"weight_decay": 0.1, "second": other}),
        ("the third step, and the second parameter's first", 2, _late, {"weight_decay": 0.1}),
        ("gradients that are not contiguous in memory", 1, _transposed, {"weight_decay": 0.1}),
    ):  # fmt: skip
        theirs, mine = (_optimizer(kind, dict(settings)) for kind in (torch.optim.AdamW, AdamW))
        for optimizer in (theirs, mine):
            for _ in range(before):
                optimizer.step()
            change(_parameters(optimizer))
        see_theirs = _observing(theirs)
        theirs.step()
        yield Case(what, [mine], expected=see_theirs(None, [theirs]), observe=_observing(mine))
    elsewhere = _optimizer(AdamW, {}, "meta")
    yield Case("parameters on another device (meta: shapes without numbers)", [elsewhere], observe=_devices)


@torch.no_grad()
def _step(self: AdamW, **wrong: bool) -> None:
    for group in self.param_groups:
        lr, (beta1, beta2), eps = group["lr"], group["betas"], group["eps"]
        if wrong.get("first_group"):
            lr, (beta1, beta2), eps = (self.param_groups[0][name] for name in ("lr", "betas", "eps"))
        for p in group["params"]:
            if p.grad is None or (wrong.get("zeros_skipped") and not p.grad.any()):
                continue
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros(())
                zeros = torch.zeros(p.shape, dtype=p.dtype) if wrong.get("on_the_cpu") else torch.zeros_like(p)
                state["exp_avg"], state["exp_avg_sq"] = zeros, zeros.clone()
            state["step"] += 1
            t = state["step"].item() if not wrong.get("uncorrected") else math.inf
            t += int(wrong.get("ahead", False)) - int(wrong.get("behind", False))
            if wrong.get("shared_count"):
                t = max(state["step"].item() for state in self.state.values() if "step" in state)
            g = p.grad
            if wrong.get("gradient_changed"):
                g.mul_(1 - beta1)
                state["exp_avg"] = beta1 * state["exp_avg"] + g
                g = g / (1 - beta1)
            if wrong.get("coupled"):
                g = g + group["weight_decay"] * p
            if not wrong.get("gradient_changed"):
                state["exp_avg"] = beta1 * state["exp_avg"] + (1 - beta1) * g
            state["exp_avg_sq"] = beta2 * state["exp_avg_sq"] + (1 - beta2) * g * g
            mean = state["exp_avg"] / (1 - beta1**t)
            size = (state["exp_avg_sq"] / (1.0 if wrong.get("v_uncorrected") else 1 - beta2**t)).sqrt() + eps
            if wrong.get("eps_inside"):
                size = (state["exp_avg_sq"] / (1 - beta2**t) + eps).sqrt()
            if wrong.get("eps_scaled"):
                size = (state["exp_avg_sq"].sqrt() + eps) / math.sqrt(1 - beta2**t)
            late = lr * mean / size if wrong.get("decay_late") else 0.0
            if not wrong.get("coupled") and not wrong.get("no_decay"):
                p.sub_(late).mul_(1 - (1.0 if wrong.get("decay_without_lr") else lr) * group["weight_decay"])
            if wrong.get("replaced"):
                p.data = p.data - lr * mean / size
            elif not wrong.get("decay_late"):
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
        Mistake(_mistaken("eps_scaled"), "ε is added after √v is corrected; here it is divided by √(1 - β₂ᵗ) as well"),
        Mistake(_mistaken("first_group"), "each group has its own lr, betas and eps"),
        Mistake(_mistaken("shared_count"), "t counts the steps of this parameter; another may have had more"),
        Mistake(_mistaken("gradient_changed"), "parameter.grad must stay as it is: do not write into it"),
        Mistake(
            _mistaken("zeros_skipped"),
            "only a gradient of None is skipped: with a gradient of zeros, m and the decay still move the parameter",
        ),
        Mistake(_mistaken("replaced"), "change the parameter in place: p.data = … gives it other memory"),
        Mistake(
            _mistaken("on_the_cpu"),
            "the state is on the parameter's device and of its type: torch.zeros_like(parameter)",
        ),
    ),
)
