"""Lab 1.A: The loss falls, then swings back and forth.

A small network learns a sine wave by gradient descent. With the function below, the loss falls at first. Then it swings
and does not settle, and the gradient stays as long as it was at the beginning. The learning rate is the same as in the
run beside it, which is smooth.
"""

from __future__ import annotations

from neural_networks.backpropagation import Tensor
from neural_networks.layers import Module


def zero_grad(self: Module) -> None:
    """Forget the gradients of the last step, because `backward` would add to them.

    `vars(self)` holds what the module itself has: tensors, modules, and lists of modules. `self.parameters()` finds the
    parameters of all of them.
    """
    for value in vars(self).values():
        if isinstance(value, Tensor):
            value.grad = None


# === Above: what the learner gets. Below: how it is graded, the experiment, and the answer. ===

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from learn.exercise import Case
from learn.lab import Lab, Measurement
from neural_networks.layers import Linear, Sequential, Tanh

STEPS = 120


def _gradients(result: Any, arguments: Sequence[Any]) -> dict[str, bool]:
    module: Module = arguments[0]
    return {name: parameter.grad is None for name, parameter in module.named_parameters()}


def cases() -> Iterator[Case]:
    """A layer; layers in a row; one within another."""

    def with_gradients(module: Module) -> Module:
        for parameter in module.parameters():
            parameter.grad = np.ones(parameter.shape)
        return module

    def layer() -> Linear:
        return Linear(2, 3, np.random.default_rng(0))

    yield Case("one layer", [with_gradients(layer())], observe=_gradients)
    yield Case("two layers in a row", [with_gradients(Sequential(layer(), Tanh(), layer()))], observe=_gradients)
    nested = Sequential(layer(), Sequential(layer(), Sequential(layer())))
    yield Case("a row within a row within a row", [with_gradients(nested)], observe=_gradients)


def measure() -> Measurement:
    """Learn a sine wave by gradient descent."""
    rng = np.random.default_rng(0)
    model = Sequential(Linear(1, 32, rng), Tanh(), Linear(32, 1, rng))
    x = np.linspace(-3, 3, 64)[:, None]
    losses, norms = [], []
    for _ in range(STEPS):
        error = model(Tensor(x)) - np.sin(x)
        loss = (error * error).mean()
        loss.backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norms.append(float(np.sqrt(sum((gradient**2).sum() for gradient in gradients))))
        for parameter in model.parameters():
            parameter.data = parameter.data - 0.05 * (0.0 if parameter.grad is None else parameter.grad)
        model.zero_grad()
        losses.append(loss.item())
    return {
        "loss": losses,
        "length of the gradient": norms,
        "largest loss of the last 60 steps": max(losses[-60:]),
    }


def visible(file: Measurement, package: Measurement) -> bool:
    """The loss of the last half swings above the package's."""
    name = "largest loss of the last 60 steps"
    return float(file[name]) > 3 * float(package[name])  # type: ignore[arg-type]


LAB = Lab(
    broken=zero_grad,
    reference="neural_networks.layers:Module.zero_grad",
    cases=cases,
    measure=measure,
    visible=visible,
    in_place=True,
    repair=[
        (
            "    for value in vars(self).values():\n        if isinstance(value, Tensor):\n            value.grad = None\n",
            "    for parameter in self.parameters():\n        parameter.grad = None\n",
        ),
    ],
    hints=(
        "Look at the length of the gradient beside the loss. Near a minimum it should be small, and it is not. What does "
        "`backward` do with a gradient that is there already?",
        "Make a Sequential of two Linear layers, set every grad to ones, call zero_grad, and print which are None. Then "
        "do the same with one Linear layer.",
        "vars(self) has what the module itself holds. It does not have the parameters of the parts of a Sequential; "
        "self.parameters() goes through the parts.",
    ),
    diagnosis=(
        "The gradient's length is the clue: it stays long even where the loss is low, so each gradient must contain "
        "the earlier ones. One question decides: is every grad None after zero_grad? It is for a single layer, but "
        "not for layers within a Sequential, because only what the module itself holds was cleared. A sum of all "
        "gradients so far is momentum without friction, so the loss swings. If you write a loop over parameters by hand, "
        "check that it reaches as many parameters as model.parameters() does."
    ),
)
