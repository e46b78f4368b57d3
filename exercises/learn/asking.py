"""Ask a function a question, and see what it answers and what else it does."""

from __future__ import annotations

import dataclasses
import inspect
import random
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from groundwork.memory_meter import MemoryMeter
from learn.comparison import first_difference
from learn.exercise import Case

OWN_ANSWER = "this calls the package's own answer; write it yourself"


@dataclass
class Outcome:
    """What a function does with a question.

    Args:
        value: what was observed.
        result: what the function returned.
        shared: names of the arguments that the result shares memory with.
        error: the exception that it raised.
        misdeed: anything that it did but must not do.
    """

    value: Any = None
    result: Any = None
    shared: frozenset[str] = frozenset()
    error: BaseException | None = None
    misdeed: str = ""

    def same_as(self, other: Outcome, tolerance: float | None) -> bool:
        """Whether both went wrong in the same way."""
        if self.error is not None or other.error is not None:
            return repr(self.error) == repr(other.error)  # the same type and message
        return self.misdeed == other.misdeed and first_difference(self.value, other.value, tolerance) is None


def ask(
    function: Callable[..., Any],
    case: Case,
    names: list[str],
    pristine: Case | None = None,
    gradient: bool = False,
    package_calls: Callable[[], int] = lambda: 0,
) -> Outcome:
    """Call a function as a case says, and observe what it does. Nothing that the function does raises an error here.

    Args:
        function: the learner's function, or the package's.
        case: the question.
        names: names of the function's parameters.
        pristine: the same question again, if the function must not change its arguments.
        gradient: whether to observe the gradients of the arguments, instead of the result.
        package_calls: how often the package's own function has been called so far.
    """
    before = package_calls()
    try:
        with MemoryMeter() if case.most_bytes is not None else nullcontext() as meter:
            outcome = _call(function, case, names, gradient)
    except BaseException as error:  # also SystemExit: the learner's code must not end the grader
        traceback.clear_frames(error.__traceback__)  # they may hold gigabytes
        outcome = Outcome(error=error)
    if package_calls() > before:
        outcome.misdeed = OWN_ANSWER
    elif outcome.error is None and meter is not None and meter.peak_bytes > (case.most_bytes or 0):
        held = f"more than {case.most_bytes:,} bytes of tensors are held at the same time"
        outcome.misdeed = f"{held}, the limit of this question"
    elif outcome.error is None and pristine is not None:
        outcome.misdeed = _changed_argument(case, pristine, names)
    return outcome


def _call(function: Callable[..., Any], case: Case, names: list[str], gradient: bool) -> Outcome:
    # All functions draw the same random numbers, whatever was drawn before.
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    if case.raises is not None:
        raised, refusal = "nothing", None
        try:
            result = function(*case.arguments, **case.keywords)
            if isinstance(result, Iterator):
                list(result)  # a generator begins to work when it is read
        except case.raises as error:
            raised, refusal = type(error).__name__, case.refusal(error)
        afterwards = case.observe(None, case.arguments)
        return Outcome({"raised": raised, "refusal": refusal, "afterwards": afterwards})
    with case.within():
        result = function(*case.arguments, **case.keywords)
        if isinstance(result, Iterator):
            result = list(result)
    named = [*zip(names, case.arguments, strict=False), *case.keywords.items()]
    if gradient:
        return Outcome(_gradients(result, named))
    memory = {place for place, _ in places(result)}
    shared = frozenset(name for name, value in named if any(place in memory for place, _ in places(value)))
    return Outcome(case.observe(result, case.arguments), result, shared)


def _gradients(result: Any, named: list[tuple[str, Any]]) -> dict[str, Any]:
    """The gradients of a weighted sum of all numbers in a result, by the arguments and by the parameters in them."""
    outputs = [x for _, x in places(result) if isinstance(x, Tensor) and x.requires_grad]
    if not outputs:
        return {"gradients": "none: the result does not depend on the arguments any more"}
    weights = [torch.arange(1.0, x.numel() + 1, dtype=x.dtype).cos().view(x.shape) for x in outputs]
    total = sum(((x * weight).sum() for x, weight in zip(outputs, weights, strict=True)), torch.tensor(0.0))
    leaves = {name: x for name, x in named if isinstance(x, Tensor) and x.requires_grad}
    for name, module in named:
        if isinstance(module, nn.Module):
            leaves |= {f"{name}.{key}": parameter for key, parameter in module.named_parameters()}
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {f"gradient of {name}": gradient for name, gradient in zip(leaves, found, strict=True)}


def _changed_argument(case: Case, pristine: Case, names: list[str]) -> str:
    kinds = (Tensor, np.ndarray, list, Mapping, set)
    after = [*zip(names, case.arguments, strict=False), *case.keywords.items()]
    before = [*pristine.arguments, *pristine.keywords.values()]
    for (name, mine), theirs in zip(after, before, strict=False):
        if isinstance(theirs, kinds) and first_difference(mine, theirs) is not None:
            return f"the function changes its argument {name}, which belongs to the caller"
    return ""


def shares_memory(first: Any, second: Any) -> bool:
    """Whether two results are partly the same object, so that a change of one would change the other."""
    memory = {place for place, _ in places(first)}
    return any(place in memory for place, _ in places(second))


def places(value: Any) -> Iterator[tuple[object, Any]]:
    """What in a value can be changed (tensors, arrays, lists, dictionaries, sets), each with where it is in memory."""
    if isinstance(value, Tensor):
        if value.device.type != "meta" and value.untyped_storage().nbytes():
            yield ("tensor", value.untyped_storage().data_ptr()), value
        else:
            yield ("empty", id(value)), value
    elif isinstance(value, np.ndarray):
        root = value
        while isinstance(root.base, np.ndarray):
            root = root.base
        yield ("array", root.__array_interface__["data"][0] if root.size else id(value)), value
    elif isinstance(value, (list, dict, set)):
        yield ("object", id(value)), value
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from places(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from places(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from places(getattr(value, field.name))


def parameter_names(function: Callable[..., Any]) -> list[str]:
    """Names of a function's parameters, in order."""
    return list(inspect.signature(function).parameters)
