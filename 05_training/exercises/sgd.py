"""Exercise 5.5: SGD with momentum and weight decay."""

from __future__ import annotations

import torch

from training.optimizers.sgd import SGD


@torch.no_grad()
def update(self: SGD) -> None:
    """Change every parameter that has a gradient, in place.

        d = g + λ θ                  weight decay in the form of an L2 penalty
        v ← μ v + d                  v is 0 at first
        θ ← θ - η v                  without momentum (μ = 0), θ - η d

    Args:
        self: the optimizer. `self.param_groups` is a list of dictionaries with the parameters in "params" and the numbers
            "lr" (η), "momentum" (μ) and "weight_decay" (λ). `self.state[parameter]` is a dictionary, empty at first. Keep v
            there as "momentum_buffer". If μ = 0, keep nothing. The gradient, `parameter.grad`, must not change.
    """
    raise NotImplementedError("Exercise 5.5: one step against the gradient")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def _after(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    optimizer: SGD = arguments[0]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        "parameters": [p.detach() for p in parameters],
        "gradients": [p.grad for p in parameters],
        "v": [optimizer.state[p].get("momentum_buffer") for p in parameters],
    }


def _by_torch(steps: int, groups: int, settings: dict[str, float]) -> dict[str, Any]:
    optimizer = _optimizer(torch.optim.SGD, groups, settings)
    for _ in range(steps):
        optimizer.step()
    return _after(None, [optimizer])


def _optimizer(kind: Any, groups: int, settings: dict[str, float]) -> Any:
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(2 * groups)]
    for index, parameter in enumerate(parameters):
        parameter.grad = None if index == 1 else torch.randn(3, generator=generator, dtype=torch.float64)
    made = [{"params": parameters[2 * i : 2 * i + 2], "lr": settings["lr"] * (i + 1)} for i in range(groups)]
    return kind(made, **settings)


def cases() -> Iterator[Case]:
    """Plain; decay; momentum; later steps; two groups. The expected values come from torch.optim.SGD."""
    for what, before, groups, settings in (
        ("a plain step; the second parameter has no gradient", 0, 1, {"lr": 0.1}),
        ("weight decay of 0.5", 0, 1, {"lr": 0.1, "weight_decay": 0.5}),
        ("the first step with momentum 0.9", 0, 1, {"lr": 0.1, "momentum": 0.9}),
        ("the third step with momentum 0.9", 2, 1, {"lr": 0.1, "momentum": 0.9}),
        ("two groups with rates 0.1 and 0.2, momentum and decay, the second step", 1, 2,
         {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.1}),
    ):  # fmt: skip
        optimizer = _optimizer(SGD, groups, settings)
        for _ in range(before):
            optimizer.step()
        yield Case(what, [optimizer], expected=_by_torch(before + 1, groups, settings), observe=_after)


@torch.no_grad()
def _step(self: SGD, **wrong: bool) -> None:
    for group in self.param_groups:
        lr = self.param_groups[0]["lr"] if wrong.get("first_group") else group["lr"]
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            decay = 0.0 if wrong.get("no_decay") else group["weight_decay"]
            if wrong.get("gradient_changed"):
                parameter.grad.add_(parameter, alpha=decay)
                d = parameter.grad
            else:
                d = parameter.grad + decay * parameter
            if group["momentum"]:
                state = self.state[parameter]
                velocity = state.get("momentum_buffer", torch.zeros_like(parameter))
                if wrong.get("decay_late"):
                    d = parameter.grad
                share = 1 - group["momentum"] if wrong.get("averaged") else 1.0
                d = group["momentum"] * velocity + share * d
                if not wrong.get("forgotten"):
                    state["momentum_buffer"] = d.clone()
                if wrong.get("decay_late"):
                    d = d + decay * parameter
            parameter -= lr * d


def _mistaken(name: str) -> Callable[..., Any]:
    def update(self: SGD) -> None:
        _step(self, **{name: True})

    return update


EXERCISE = Exercise(
    stub=update,
    reference="training.optimizers.sgd:SGD.update",
    cases=cases,
    in_place=True,
    hints=(
        "Write two loops: over the groups, and over the parameters of each group. Skip those whose gradient is None.",
        "Make d a new tensor, so that the gradient stays. With momentum, keep v in self.state[parameter]['momentum_buffer'] "
        "and use it instead of d.",
        "d = p.grad.add(p, alpha=decay); v = state.setdefault('momentum_buffer', torch.zeros_like(p)); "
        "v.mul_(momentum).add_(d); p.add_(v, alpha=-lr).",
    ),
    mistakes=(
        Mistake(_mistaken("no_decay"), "weight decay adds λ θ to the gradient"),
        Mistake(_mistaken("gradient_changed"), "parameter.grad must stay as it is: make d a new tensor"),
        Mistake(_mistaken("averaged"), "v ← μ v + d: the new part is not weighted by 1 - μ (that is Adam's mean)"),
        Mistake(
            _mistaken("decay_late"), "the decay is part of d and so goes into v; here it is added after the momentum"
        ),
        Mistake(_mistaken("forgotten"), "v is not kept from step to step: put it into self.state[parameter]"),
        Mistake(_mistaken("first_group"), "each group has its own rate"),
    ),
)
