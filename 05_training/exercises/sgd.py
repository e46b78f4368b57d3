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
            there as "momentum_buffer". If μ = 0, keep nothing. The gradient, `parameter.grad`, must not change, and v must not
            change with it: `zero_grad(set_to_none=False)` writes zeros into the gradient.
    """
    raise NotImplementedError("Exercise 5.5: one step against the gradient")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from learn.exercise import Case, Exercise, Mistake, Observe


def _parameters(optimizer: Any) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _observing(optimizer: Any) -> Observe:
    """Return parameters, gradients and v, and whether each has memory of its own."""
    places = [parameter.data_ptr() for parameter in _parameters(optimizer)]

    def observe(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
        parameters = _parameters(arguments[0])
        buffers = [arguments[0].state[p].get("momentum_buffer") for p in parameters]
        seen = {
            "parameters": [p.detach().clone() for p in parameters],
            "gradients": [None if p.grad is None else p.grad.clone() for p in parameters],
            "v": [None if v is None else v.clone() for v in buffers],
            "parameters are where they were": [p.data_ptr() for p in parameters] == places,
        }
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.zero_()  # as zero_grad(set_to_none=False) does
        return {**seen, "v after the gradients were set to 0": buffers}

    return observe


def _optimizer(kind: Any, groups: Sequence[dict[str, float]], device: str = "cpu") -> Any:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(len(groups), 2, 2, 2, 3, generator=generator, dtype=torch.float64).to(device)
    made: list[dict[str, Any]] = []
    for settings, (values, gradients) in zip(groups, numbers, strict=True):
        pair = [value.clone().requires_grad_() for value in values]
        for parameter, gradient in zip(pair, gradients, strict=True):
            parameter.grad = gradient.clone()
        made.append({"params": pair, **settings})
    made[0]["params"][1].grad = None
    return kind(made, lr=0.1)


def _devices(result: Any, arguments: Sequence[Any]) -> list[str]:
    parameters = _parameters(arguments[0])
    return [str(arguments[0].state[p]["momentum_buffer"].device) for p in parameters if p.grad is not None]


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
    """Plain; decay; momentum; later steps; gradients of zeros; two groups; a late one; not contiguous; another device.

    Expected values come from torch.optim.SGD.
    """
    for what, before, change, *groups in (
        ("a plain step; the second parameter has no gradient", 0, _as_it_is, {}),
        ("weight decay of 0.5", 0, _as_it_is, {"weight_decay": 0.5}),
        ("the first step with momentum 0.9", 0, _as_it_is, {"momentum": 0.9}),
        ("the third step with momentum 0.9", 2, _as_it_is, {"momentum": 0.9}),
        ("the third step, where zero_grad(set_to_none=False) has left gradients of zeros", 2, _zeros,
         {"momentum": 0.9, "weight_decay": 0.5}),
        ("two groups with rates 0.1 and 0.2, momentum and decay, the second step", 1, _as_it_is,
         {"momentum": 0.5, "weight_decay": 0.1}, {"lr": 0.2, "momentum": 0.5, "weight_decay": 0.1}),
        ("two groups with momentum 0 and 0.9, decay 0.5 and 0, the second step", 1, _as_it_is,
         {"weight_decay": 0.5}, {"momentum": 0.9}),
        ("the third step, and the second parameter's first", 2, _late, {"momentum": 0.9}),
        ("gradients that are not contiguous in memory", 1, _transposed, {"momentum": 0.9, "weight_decay": 0.1}),
    ):  # fmt: skip
        theirs, mine = (_optimizer(kind, groups) for kind in (torch.optim.SGD, SGD))
        for optimizer in (theirs, mine):
            for _ in range(before):
                optimizer.step()
            change(_parameters(optimizer))
        see_theirs = _observing(theirs)
        theirs.step()
        yield Case(what, [mine], expected=see_theirs(None, [theirs]), observe=_observing(mine))
    elsewhere = _optimizer(SGD, [{"momentum": 0.9}], "meta")
    yield Case("parameters on another device (meta: shapes without numbers)", [elsewhere], observe=_devices)


@torch.no_grad()
def _step(self: SGD, **wrong: bool) -> None:
    for group in self.param_groups:
        first = self.param_groups[0]
        lr = first["lr"] if wrong.get("first_rate") else group["lr"]
        momentum = first["momentum"] if wrong.get("first_momentum") else group["momentum"]
        for parameter in group["params"]:
            if parameter.grad is None or (wrong.get("zeros_skipped") and not parameter.grad.any()):
                continue
            decay = 0.0 if wrong.get("no_decay") else group["weight_decay"]
            if wrong.get("gradient_changed"):
                parameter.grad.add_(parameter, alpha=decay)
                d = parameter.grad
            else:
                d = parameter.grad + decay * parameter
            if momentum:
                state = self.state[parameter]
                zeros = torch.zeros(parameter.shape) if wrong.get("on_the_cpu") else torch.zeros_like(parameter)
                velocity = state.get("momentum_buffer", zeros)
                if wrong.get("decay_late"):
                    d = parameter.grad
                share = 1 - momentum if wrong.get("averaged") else 1.0
                if wrong.get("aliased") and not state and not decay:
                    d = parameter.grad
                else:
                    d = momentum * velocity + share * d
                if not wrong.get("forgotten"):
                    state["momentum_buffer"] = d
                if wrong.get("decay_late"):
                    d = d + decay * parameter
            if wrong.get("replaced"):
                parameter.data = parameter.data - lr * d
            else:
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
        Mistake(_mistaken("first_rate"), "each group has its own rate"),
        Mistake(_mistaken("first_momentum"), "each group has its own momentum"),
        Mistake(
            _mistaken("aliased"),
            "v is the gradient's own tensor here: it changes when the gradient is set to 0, so keep a copy",
        ),
        Mistake(
            _mistaken("zeros_skipped"),
            "only a gradient of None is skipped: with a gradient of zeros, v and the decay still move the parameter",
        ),
        Mistake(_mistaken("replaced"), "change the parameter in place: p.data = … gives it other memory"),
        Mistake(_mistaken("on_the_cpu"), "v is on the parameter's device and of its type: torch.zeros_like(parameter)"),
    ),
)
