"""What an exercise is made of: questions with known answers, hints, and wrong answers that people give.

An exercise is one file in a stage's folder `exercises/`. The part above the line that begins with `# ===` is what
the learner gets. Below it, an `Exercise` says how the learner's function is graded. The function has the name and
the signature of one in the stage's package, its reference, and can be used instead of it (`learn run`).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

# Takes what the function returned and its arguments; gives what is compared.
Observe = Callable[[Any, Sequence[Any]], Any]


class FromReference:
    """Stands for an expected value that comes from the reference."""


FROM_REFERENCE = FromReference()


@dataclass(frozen=True)
class Case:
    """One question to the learner's function.

    Args:
        what: the question in words, shown if the answer is wrong.
        arguments: arguments of the call by position. Make new ones for each case, since a function may change them.
        keywords: arguments of the call by name.
        expected: what should be observed; by default what is observed with the reference.
        tolerance: for numbers: |got - expected| may be at most tolerance · (1 + |expected|). By default 1e-6, and 1e-9
            for arrays and tensors of float64.
        observe: gives what is compared; by default what the function returns.
        raises: the exception that the call must raise. `observe` is then called afterwards, with None as the result.
        refusal: gives what is compared of that exception besides its type, such as a status; by default nothing.
        most_bytes: how many bytes of tensors the call may hold at a time, besides its arguments; None for any number.
        within: makes what the call is made in, such as `torch.no_grad`.
    """

    what: str
    arguments: Sequence[Any] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    expected: Any = FROM_REFERENCE
    tolerance: float | None = None
    observe: Observe = lambda result, arguments: result
    raises: type[Exception] | None = None
    refusal: Callable[[Any], Any] = lambda error: None
    most_bytes: int | None = None
    within: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that people give.

    Args:
        function: the wrong answer, complete.
        explanation: what was misunderstood. It is shown to a learner whose answer is wrong in the same way.
    """

    function: Callable[..., Any]
    explanation: str


@dataclass(frozen=True)
class Exercise:
    """How one function of the learner's is graded.

    Args:
        stub: the function that the learner completes.
        reference: the function of the package that does the same, as `module:name` or `module:Class.name`.
        cases: yields the questions, the same ones at each call, easy ones first.
        hints: three hints: what to think about; how to do it; nearly the code.
        mistakes: two or more. Each must fail some case.
        in_place: whether the function should change a tensor, array, list, dictionary or set that it is given; if not,
            a change is a mistake.
        differentiable: whether gradients must flow through the function, to floating tensors and to parameters.
    """

    stub: Callable[..., Any]
    reference: str
    cases: Callable[[], Iterator[Case]]
    hints: tuple[str, str, str]
    mistakes: tuple[Mistake, ...]
    in_place: bool = False
    differentiable: bool = False

    def resolve(self) -> Reference:
        """Find the function of the package that the learner's function is compared with."""
        module_name, _, path = self.reference.partition(":")
        module: Any = importlib.import_module(module_name)
        *holders, name = path.split(".")
        holder = module
        for part in holders:
            holder = getattr(holder, part)
        return Reference(module, holder, name, inspect.getattr_static(holder, name))


@dataclass(frozen=True)
class Reference:
    """A function in a package.

    Args:
        module: where it is defined.
        holder: the module, or the class if the function is a method.
        name: its name in the holder.
        function: the function itself.
    """

    module: ModuleType
    holder: Any
    name: str
    function: Callable[..., Any]
