"""Exercise 5.4: Gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients by one factor so that their norm is at most `max_norm` (Pascanu et al., 2013).

    The norm is the length of all gradients taken as one vector, in float32: the root of the sum of all squares. Where it is
    larger than `max_norm`, every gradient is multiplied by max_norm / (norm + 1e-6), in place.

    Args:
        parameters: the parameters whose gradients (`parameter.grad`) to scale; leave out those whose gradient is None.
            This may be an iterator, which can be read only once.
        max_norm: 0 leaves gradients as they are and only measures.

    Returns:
        The norm before clipping, a float; 0.0 if there is no gradient. It is inf or nan if a gradient is, and then nothing
        is scaled.
    """
    raise NotImplementedError("Exercise 5.4: one factor for all gradients")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from learn.exercise import Case, Exercise, Mistake, Observe


class _Parameters(list[Tensor]):
    """A list that can be read only once, like `model.parameters()`. It remembers where the gradients were."""

    def __init__(self, tensors: Sequence[Tensor]):
        super().__init__(tensors)
        self._gone = iter(list(tensors))
        self.gradients = [tensor.grad for tensor in tensors]

    def __iter__(self) -> Iterator[Tensor]:
        return self._gone


def _norm_and_gradients(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    parameters: _Parameters = arguments[0]
    gradients = [parameters[i].grad for i in range(len(parameters))]
    return {
        "norm": result,
        "gradients": gradients,
        "still the same tensors": all(a is b for a, b in zip(gradients, parameters.gradients, strict=True)),
    }


def _in_units_of_the_limit(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    # Numbers near 0 pass with any absolute tolerance; their ratio to the limit does not.
    parameters: _Parameters = arguments[0]
    return {"gradients / max_norm": [parameters[i].grad / arguments[1] for i in range(len(parameters))]}


def cases() -> Iterator[Case]:
    """Long; short; two parameters; none; 0; inf and nan; float16; not contiguous; very small."""

    def question(
        what: str,
        gradients: Sequence[list[Any] | None],
        max_norm: float,
        dtype: torch.dtype = torch.float32,
        observe: Observe = _norm_and_gradients,
    ) -> Case:
        parameters = []
        for numbers in gradients:
            gradient = torch.tensor(numbers or [0.0], dtype=dtype).t()  # a matrix is not contiguous then
            parameters.append(torch.zeros_like(gradient))
            parameters[-1].grad = None if numbers is None else gradient
        what = f"{what}. Gradients: {', '.join(map(str, gradients))}"
        return Case(what, [_Parameters(parameters), max_norm], tolerance=1e-5, observe=observe)

    yield question("to a norm of 1", [[3.0, 4.0]], 1.0)
    yield question("shorter than the limit", [[0.3, 0.4]], 1.0)
    yield question("two parameters, taken as one vector", [[3.0], [4.0]], 1.0)
    yield question("one of them without a gradient", [[3.0, 4.0], None], 2.0)
    yield question("a limit of 0 only measures", [[3.0, 4.0]], 0.0)
    yield question("a gradient that is infinite", [[3.0, math.inf]], 1.0)
    yield question("a gradient that is nan, beside another", [[3.0, math.nan], [4.0]], 1.0)
    yield question("no gradient at all", [None, None], 1.0)
    yield question("float16, where 300² is infinite", [[300.0, 400.0]], 1.0, torch.float16)
    yield question("float16, with a norm that float16 cannot hold", [[60000.0, 60000.0]], 1.0, torch.float16)
    yield question("a matrix that is not contiguous in memory", [[[3.0, 0.0], [0.0, 4.0]]], 1.0)
    yield question("a limit as small as the 1e-6", [[3e-6, 4e-6]], 1e-6, observe=_in_units_of_the_limit)
    small = 2.0**-20
    yield question("a norm that is the limit exactly", [[small]], small, observe=_in_units_of_the_limit)


def _clip(parameters: Iterable[Tensor], max_norm: float, **wrong: bool) -> float:
    parameters = list(parameters)
    found = [p.grad for p in parameters if p.grad is not None]
    if not found and not wrong.get("empty"):
        return 0.0
    norms = [torch.linalg.vector_norm(g.float()) for g in found]
    norm = sum(norms).item() if wrong.get("norms_added") else torch.linalg.vector_norm(torch.stack(norms)).item()
    if wrong.get("low_norm"):
        norm = torch.stack([g.norm() for g in found]).norm().item()
    if wrong.get("low"):
        norm = torch.stack([g.square().sum() for g in found]).sum().sqrt().item()
    if wrong.get("one_by_one"):
        for g in found:
            g.mul_(min(1.0, max_norm / (g.norm().item() + 1e-6)) if max_norm else 1.0)
        return norm
    if wrong.get("by_value"):
        for g in found:
            g.clamp_(-max_norm, max_norm) if max_norm else None
        return norm
    too_long = not norm <= max_norm if wrong.get("nan_scaled") else norm > max_norm
    too_long = too_long or (bool(wrong.get("reached")) and norm == max_norm)
    finite = not math.isinf(norm) if wrong.get("nan_scaled") else norm < math.inf or wrong.get("infinite")
    if wrong.get("always") or ((max_norm or wrong.get("zero")) and too_long and finite):
        factor = max_norm / (norm + (0.0 if wrong.get("no_eps") else 1e-6))
        for p in parameters:
            if p.grad is not None and wrong.get("replaced"):
                p.grad = p.grad * factor
            elif p.grad is not None:
                p.grad.mul_(factor)
    return max_norm if wrong.get("norm_after") and norm > max_norm else norm


def _mistaken(name: str) -> Callable[..., Any]:
    def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> float:
        return _clip(parameters, max_norm, **{name: True})

    return clip_gradients


def _tensor(parameters: Iterable[Tensor], max_norm: float) -> Any:
    return torch.tensor(_clip(parameters, max_norm))


def _twice(parameters: Iterable[Tensor], max_norm: float) -> float:
    norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in parameters if p.grad is not None])).item()
    for parameter in parameters:
        if parameter.grad is not None and norm > max_norm:
            parameter.grad.mul_(max_norm / (norm + 1e-6))
    return norm


def _viewed(parameters: Iterable[Tensor], max_norm: float) -> float:
    parameters = list(parameters)
    found = [p.grad.view(-1) for p in parameters if p.grad is not None]
    return _clip(parameters, max_norm) if found else 0.0


def _norms_of_their_own(parameters: Iterable[Tensor], max_norm: float) -> float:
    norm = 0.0
    for parameter in parameters:
        if parameter.grad is not None:
            norm = parameter.grad.norm().item()
            if max_norm and max_norm < norm < math.inf:
                parameter.grad.mul_(max_norm / (norm + 1e-6))
    return norm


EXERCISE = Exercise(
    stub=clip_gradients,
    reference="training.optimizers.gradient_clipping:clip_gradients",
    cases=cases,
    in_place=True,
    hints=(
        "One norm for everything, then one factor for everything. Make a list of the parameters first.",
        "The norm of the norms is the norm of the whole: torch.linalg.vector_norm(torch.stack([…])).",
        "if max_norm and norm > max_norm and norm < float('inf'): for each gradient, grad.mul_(max_norm / (norm + 1e-6)).",
    ),
    mistakes=(
        Mistake(_mistaken("by_value"), "this clips each number, which changes the direction: scale all by one factor"),
        Mistake(_twice, "`parameters` may be an iterator, which is empty the second time: make a list of it first"),
        Mistake(_mistaken("norm_after"), "the norm *before* clipping is returned"),
        Mistake(_mistaken("always"), "gradients that are shorter than the limit stay as they are"),
        Mistake(
            _mistaken("norms_added"),
            "the norm of the whole is the root of the sum of squares, not the sum of the norms",
        ),
        Mistake(
            _mistaken("one_by_one"), "one norm and one factor for all parameters together, or the direction changes"
        ),
        Mistake(
            _norms_of_their_own,
            "here each gradient has its own norm and factor: use one norm and one factor for all together",
        ),
        Mistake(_mistaken("zero"), "a limit of 0 only measures"),
        Mistake(_mistaken("infinite"), "if the norm is infinite, nothing is scaled: the step will be skipped"),
        Mistake(
            _mistaken("nan_scaled"), "if the norm is nan, nothing is scaled; and every comparison with nan is False"
        ),
        Mistake(_mistaken("empty"), "there may be no gradient at all: the norm is 0.0 then"),
        Mistake(_mistaken("replaced"), "scale the gradient itself, grad.mul_(factor): others hold the same tensor"),
        Mistake(
            _viewed, "a gradient need not be contiguous in memory: view() refuses such a tensor, flatten() does not"
        ),
        Mistake(_mistaken("reached"), "a norm that is the limit exactly is not larger than it: nothing is scaled"),
        Mistake(_mistaken("low"), "squares overflow in float16: take the norm in float32, grad.float()"),
        Mistake(_mistaken("low_norm"), "the norm itself may be more than float16 can hold: grad.float().norm()"),
        Mistake(_mistaken("no_eps"), "the factor is max_norm / (norm + 1e-6)"),
        Mistake(_tensor, "the norm is a float: take it out of the tensor by .item()"),
    ),
)
