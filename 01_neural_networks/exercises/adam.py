"""Exercise 1.9: Adam."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neural_networks.broadcasting import Array
from neural_networks.optimizers import Adam


def step(self: Adam, gradients: Sequence[Array]) -> None:
    """Change the parameters, in place, by one step of Adam (Kingma and Ba, 2015).

        m ← β₁ m + (1 - β₁) g        running mean of the gradient
        v ← β₂ v + (1 - β₂) g²       running mean of its square
        θ ← θ - η · (m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + ε)

    t counts the steps and is 1 at the first. After t steps the means hold only the share 1 - βᵗ of their full value.

    In place means `parameter -= …`, not `parameter = parameter - …`, because others hold the same array.

    Args:
        self: the optimizer. `self.parameters`, `self.means` (m) and `self.squares` (v) are lists of flat arrays, one for
            each parameter. `self.steps` is how many steps were taken before; count this step there. `self.lr` is η,
            `self.betas` are β₁ and β₂, `self.eps` is ε.
        gradients: one for each parameter, in the parameter's shape. It can have several axes; `gradient.reshape(-1)` is flat.
    """
    raise NotImplementedError("Exercise 1.9: one step of Adam")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator
from typing import Any

import torch

from learn.exercise import Case, Exercise, Mistake


def _after(optimizer: Adam, held: list[Array]) -> dict[str, Any]:
    """What the caller sees in its own arrays, and what the optimizer keeps."""
    return {
        "parameters": [parameter.reshape(-1) for parameter in held],
        "means": optimizer.means,
        "squares": optimizer.squares,
        "steps": optimizer.steps,
    }


def _by_torch(start: list[Array], gradients: list[Array], settings: dict[str, Any], before: int) -> dict[str, Any]:
    parameters = [torch.tensor(array, requires_grad=True) for array in start]
    optimizer = torch.optim.Adam(parameters, **settings)
    for _ in range(before + 1):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = torch.tensor(gradient)
        optimizer.step()
    states = [optimizer.state[parameter] for parameter in parameters]
    return {
        "parameters": [parameter.detach().numpy().reshape(-1) for parameter in parameters],
        "means": [state["exp_avg"].numpy().reshape(-1) for state in states],
        "squares": [state["exp_avg_sq"].numpy().reshape(-1) for state in states],
        "steps": before + 1,
    }


def cases() -> Iterator[Case]:
    """The first step; the fourth; other settings; matrices. The expected values come from torch.optim.Adam."""
    questions: list[tuple[str, list[tuple[int, ...]], dict[str, Any], int]] = [
        ("the first step", [(3,)], {"lr": 0.1}, 0),
        ("the first step with betas 0.5 and 0.9", [(3,)], {"lr": 0.1, "betas": (0.5, 0.9)}, 0),
        ("the fourth step", [(3,)], {"lr": 0.1}, 3),
        ("two parameters, a matrix and a vector, the third step", [(2, 3), (4,)], {"lr": 0.01}, 2),
        ("a large eps, 0.1", [(3,)], {"lr": 0.1, "eps": 0.1}, 1),
        ("20,000 numbers, the second step", [(20_000,)], {"lr": 0.1}, 1),
        ("betas of 0", [(3,)], {"lr": 0.1, "betas": (0.0, 0.0)}, 1),
        ("the hundredth step", [(3,)], {"lr": 0.1}, 99),
    ]
    for what, shapes, settings, before in questions:
        rng = np.random.default_rng(0)
        start = [rng.normal(size=shape) for shape in shapes]
        gradients = [rng.normal(size=shape) for shape in shapes]
        expected = _by_torch(start, gradients, settings, before)
        optimizer = Adam(start, **settings)
        for _ in range(before):
            optimizer.step(gradients)

        def observe(result: Any, arguments: Sequence[Any], held: list[Array] = start) -> dict[str, Any]:
            return _after(arguments[0], held)

        yield Case(what, [optimizer, gradients], expected=expected, observe=observe)


def _variant(
    self: Adam, gradients: Sequence[Array], corrected: bool = True, counted: bool = True, root: bool = True,
    eps_inside: bool = False, kept: bool = True, stored: bool = True, rebound: bool = False,
) -> None:  # fmt: skip
    t = self.steps + counted
    self.steps = t if stored else self.steps
    beta1, beta2 = self.betas
    for parameter, gradient, m, v in zip(self.parameters, gradients, self.means, self.squares, strict=True):
        g = gradient.reshape(-1)
        if not kept:
            m, v = m.copy(), v.copy()
        m[:] = beta1 * m + (1 - beta1) * g
        v[:] = beta2 * v + (1 - beta2) * g * g
        with np.errstate(all="ignore"):
            mean = m / (1 - np.float64(beta1) ** t) if corrected else m
            square = v / (1 - np.float64(beta2) ** t) if corrected else v
            size = np.sqrt(square + self.eps) if eps_inside else (np.sqrt(square) if root else square) + self.eps
            if not rebound:
                parameter -= self.lr * mean / size


def _uncorrected(self: Adam, gradients: Sequence[Array]) -> None:
    _variant(self, gradients, corrected=False)


def _not_counted(self: Adam, gradients: Sequence[Array]) -> None:
    _variant(self, gradients, counted=False)


def _no_root(self: Adam, gradients: Sequence[Array]) -> None:
    _variant(self, gradients, root=False)


def _eps_inside(self: Adam, gradients: Sequence[Array]) -> None:
    _variant(self, gradients, eps_inside=True)


def _not_kept(self: Adam, gradients: Sequence[Array]) -> None:
    _variant(self, gradients, kept=False)


def _not_stored(self: Adam, gradients: Sequence[Array]) -> None:
    _variant(self, gradients, stored=False)


def _rebound(self: Adam, gradients: Sequence[Array]) -> None:
    """This computes a new array of parameters, which nobody sees."""
    _variant(self, gradients, rebound=True)


def _all_rebound(self: Adam, gradients: Sequence[Array]) -> None:
    """This does the same with the means and squares."""
    _variant(self, gradients, rebound=True, kept=False)


EXERCISE = Exercise(
    stub=step,
    reference="neural_networks.optimizers:Adam.step",
    cases=cases,
    hints=(
        "Count the step first, so that t is 1 at the first one. Then loop over parameters, gradients, means and squares.",
        "Change means and squares in place too: m *= beta1; m += (1 - beta1) * g. Only then correct them, and do not "
        "store the corrected values.",
        "parameter -= self.lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + self.eps), with g = "
        "gradient.reshape(-1).",
    ),
    mistakes=(
        Mistake(_uncorrected, "both means start at 0 and must be corrected: m / (1 - β₁ᵗ), v / (1 - β₂ᵗ)"),
        Mistake(_not_counted, "the step is not counted, or it is counted too late: t is 1 at the first step"),
        Mistake(_no_root, "the mean is divided by the square root of the mean square"),
        Mistake(_eps_inside, "ε is added to the root, not under it"),
        Mistake(_not_stored, "self.steps has not changed: the next step must find it one higher, self.steps += 1"),
        Mistake(_not_kept, "the new means and squares are not written into self.means and self.squares, and are lost"),
        Mistake(_rebound, "the parameters have not changed: write into the arrays, as with parameter -= …"),
        Mistake(
            _all_rebound, "neither parameters nor means have changed: write into the arrays, as with parameter -= …"
        ),
    ),
)
