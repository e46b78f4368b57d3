"""What an exercise is made of: questions with known answers, hints, and wrong answers that people give.

An exercise is one file in a stage's folder `exercises/`. Above the line that begins with `# ===` stands what
the learner gets; below it, an `Exercise` that says how the learner's function is graded. The function has the
name and the signature of one in the stage's package, its reference, and may take its place (`learn run`).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

# From (what the function returned, its arguments) to what is compared.
Observe = Callable[[Any, Sequence[Any]], Any]


class FromReference:
    """Stands for an expected value that is to be had by asking the reference."""


FROM_REFERENCE = FromReference()


@dataclass(frozen=True)
class Case:
    """One question to the learner's function.

    Args:
        what: the question in words, shown where the answer is wrong.
        arguments: of the call, by position; must be made anew for each case, since a function may change them.
        keywords: of the call, by name.
        expected: what should be observed; by default what is observed of the reference.
        tolerance: of numbers: |got - expected| may be this, and as much again for each 1 in |expected|.
        observe: what is compared; by default what the function returns.
        raises: the exception that the call must raise. What is observed is then observed afterwards, with None returned.
        most_bytes: of tensors that the call may hold at a time, arguments aside; None for any number.
    """

    what: str
    arguments: Sequence[Any] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    expected: Any = FROM_REFERENCE
    tolerance: float = 1e-6
    observe: Observe = lambda result, arguments: result
    raises: type[Exception] | None = None
    most_bytes: int | None = None


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
        hints: three: what to think of; how to go about it; nearly the code.
        mistakes: two or more. Each must fail some case.
        in_place: whether the function is meant to change its arguments; if not, that is a mistake.
    """

    stub: Callable[..., Any]
    reference: str
    cases: Callable[[], Iterator[Case]]
    hints: tuple[str, str, str]
    mistakes: tuple[Mistake, ...]
    in_place: bool = False

    def resolve(self) -> Reference:
        """The function that the learner's stands beside."""
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
        holder: the module, or the class that it is a method of.
        name: in the holder.
        function: itself.
    """

    module: ModuleType
    holder: Any
    name: str
    function: Callable[..., Any]
