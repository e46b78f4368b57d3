"""Exercise 5.8: An average of the weights."""

from __future__ import annotations

import torch

from training.optimizers.weight_average import WeightAverage


@torch.no_grad()
def update(self: WeightAverage) -> None:
    """Update every average in place: a ← d a + (1 - d) θ. Change the tensor a itself, since others hold it.

    Args:
        self: `self.parameters` maps names to parameters θ, `self.averages` maps the same names to tensors a; `self.decay`
            is d.
    """
    raise NotImplementedError("Exercise 5.8: follow the weights by one step")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from learn.exercise import Case, Exercise, Mistake, Observe


def _observing(tensors: Mapping[str, Tensor]) -> Observe:
    """Return averages, weights, and whether the averages are still in these tensors."""

    def observe(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
        average: WeightAverage = arguments[0]
        kept = {name: tensor.clone() for name, tensor in average.averages.items()}
        # Another step of training must not change the average: it is a tensor of its own.
        weights = {name: parameter.detach().clone() for name, parameter in average.parameters.items()}
        for parameter in average.parameters.values():
            parameter.data.add_(1.0)
        return {
            "averages": kept,
            "weights": weights,
            "averages belong to a graph": any(tensor.requires_grad for tensor in average.averages.values()),
            "averages after another change of the weights": dict(average.averages),
            "still the same tensors": all(average.averages[name] is tensor for name, tensor in tensors.items()),
        }

    return observe


def cases() -> Iterator[Case]:
    """A decay of a half; a decay of 0.9; two updates; a decay of 0; names in another order."""
    for what, decay, before in (
        ("decay 0.5", 0.5, 0),
        ("decay 0.9", 0.9, 0),
        ("decay 0.9, the second update", 0.9, 1),
        ("decay 0: the average is the weights, in its own tensor", 0.0, 0),
        ("the averages have the names in another order", 0.5, 0),
    ):
        torch.manual_seed(0)
        model = nn.Linear(2, 2)
        average = WeightAverage(model, decay)
        if "another order" in what:
            average.averages = dict(reversed(average.averages.items()))
        model.weight.data.add_(2.0)
        for _ in range(before):
            average.update()
            model.bias.data.sub_(1.0)
        yield Case(what, [average], observe=_observing(dict(average.averages)))


@torch.no_grad()
def _exchanged(self: WeightAverage) -> None:
    for name, parameter in self.parameters.items():
        self.averages[name].lerp_(parameter, self.decay)


@torch.no_grad()
def _weights_changed(self: WeightAverage) -> None:
    for name, parameter in self.parameters.items():
        parameter.lerp_(self.averages[name], self.decay)
        self.averages[name].copy_(parameter)


@torch.no_grad()
def _same_tensor(self: WeightAverage) -> None:
    for name, parameter in self.parameters.items():
        self.averages[name] = parameter.detach()


@torch.no_grad()
def _not_weighted(self: WeightAverage) -> None:
    for name, parameter in self.parameters.items():
        self.averages[name].mul_(self.decay).add_(parameter)


@torch.no_grad()
def _replaced(self: WeightAverage) -> None:
    for name, parameter in self.parameters.items():
        self.averages[name] = self.decay * self.averages[name] + (1 - self.decay) * parameter


@torch.no_grad()
def _by_order(self: WeightAverage) -> None:
    for average, parameter in zip(self.averages.values(), self.parameters.values(), strict=True):
        average.lerp_(parameter, 1 - self.decay)


@torch.no_grad()
def _first_alone(self: WeightAverage) -> None:
    name = next(iter(self.parameters))
    self.averages[name].lerp_(self.parameters[name], 1 - self.decay)


@torch.enable_grad()
def _with_graph(self: WeightAverage) -> None:
    for name, parameter in self.parameters.items():
        self.averages[name].mul_(self.decay).add_(parameter, alpha=1 - self.decay)


EXERCISE = Exercise(
    stub=update,
    reference="training.optimizers.weight_average:WeightAverage.update",
    cases=cases,
    in_place=True,
    hints=(
        "Write a loop over the names. Each average moves a little towards its parameter.",
        "a ← d a + (1 - d) θ is a + (1 - d)(θ - a). Write into the tensor: others hold it.",
        "self.averages[name].lerp_(parameter, 1 - self.decay).",
    ),
    mistakes=(
        Mistake(_exchanged, "the average keeps the share d, and takes 1 - d of the new weights"),
        Mistake(_weights_changed, "the weights themselves must not change: training goes on with them"),
        Mistake(_same_tensor, "the average must be a separate tensor, which does not change with the weights"),
        Mistake(_replaced, "the average must be changed in place: others hold the same tensor"),
        Mistake(_not_weighted, "multiply the new weights by 1 - d"),
        Mistake(_first_alone, "every parameter has an average: update all of them"),
        Mistake(_by_order, "a weight and its average have the same name; the order of names may differ"),
        Mistake(_with_graph, "keep @torch.no_grad(): otherwise the average remembers every step, and memory grows"),
    ),
)
