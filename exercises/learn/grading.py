"""Grade one function: ask it every question, and if an answer is wrong, find the known mistake behind it.

Planted wrong answers are compared with the learner's function on the failed question. If one gives the same
result, it shows what was misunderstood. Nothing that the learner's code does raises an error here.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from groundwork.memory_meter import MemoryMeter
from learn.comparison import first_difference, show
from learn.exercise import Case, Exercise, FromReference, Mistake
from learn.grade import Grade
from learn.learners_file import describe, load_function, own_line

_PRINTED = 2000  # characters of the learner's own output that are kept


@dataclass
class Outcome:
    """What a function does with a question: a value or an error, and anything that it did but must not do."""

    value: Any = None
    error: BaseException | None = None
    misdeed: str = ""

    def same_as(self, other: Outcome, tolerance: float) -> bool:
        """Whether both went wrong in the same way."""
        if self.error is not None or other.error is not None:
            return repr(self.error) == repr(other.error)  # the same type and message
        return self.misdeed == other.misdeed and first_difference(self.value, other.value, tolerance) is None


def grade_file(exercise: Exercise, path: Path) -> Grade:
    """Grade the function in a learner's file.

    Args:
        exercise: the exercise that it should solve.
        path: the path of the file.
    """
    printed = io.StringIO()
    with redirect_stdout(printed):
        try:
            function = load_function(path, exercise.stub.__name__)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            return Grade("failed", problem=describe(error), line=own_line(error, path))
        grade = grade_function(exercise, function, path)
    return replace(grade, printed=printed.getvalue()[:_PRINTED])


def grade_function(exercise: Exercise, function: Callable[..., Any], path: Path | None = None) -> Grade:
    """Grade a function.

    Args:
        exercise: the exercise that it should solve.
        function: the answer.
        path: the path of its file, to find the line of an exception.
    """
    total = sum(1 for _ in exercise.cases())
    failure = first_failure(exercise, function)
    if failure is None:
        return Grade("passed", total, total)
    error = failure.outcome.error
    if isinstance(error, NotImplementedError) and str(error).startswith("Exercise "):
        return Grade("to do", total=total)
    return Grade(
        "failed",
        failure.index,
        total,
        failure.case.what,
        _render_call(exercise.stub, failure.case),
        failure.problem,
        own_line(error, path) if error is not None and path is not None else "",
        likely_mistake(exercise, function, failure, known_failures(exercise)),
    )


@dataclass(frozen=True)
class Failure:
    """The first question that a function answers wrong.

    Args:
        index: index of the question.
        case: the question.
        outcome: what the function did.
        problem: what is wrong with the outcome, in words.
    """

    index: int
    case: Case
    outcome: Outcome
    problem: str


def first_failure(exercise: Exercise, function: Callable[..., Any]) -> Failure | None:
    """Ask every question until one is answered wrong; return None if all are answered right."""
    reference = exercise.resolve().function
    # Each call of `cases` makes new arguments: for the learner's function, for the reference, and for comparison.
    for index, (case, again, pristine) in enumerate(
        zip(exercise.cases(), exercise.cases(), exercise.cases(), strict=True)
    ):
        outcome = _ask(exercise, function, case, pristine)
        expected = again.expected
        if isinstance(expected, FromReference):
            expected = _run(reference, again)
        problem = None
        if outcome.error is not None:
            problem = describe(outcome.error)
        elif (difference := first_difference(outcome.value, expected, case.tolerance)) is not None:
            problem = difference
        elif outcome.misdeed:
            problem = outcome.misdeed
        if problem is not None:
            return Failure(index, pristine, outcome, problem)
    return None


def known_failures(exercise: Exercise) -> list[tuple[Mistake, Failure]]:
    """How each planted mistake fails."""
    found = []
    for mistake in exercise.mistakes:
        failure = first_failure(exercise, mistake.function)
        assert failure is not None, f"a planted mistake is right: {mistake.explanation}"
        found.append((mistake, failure))
    return found


def likely_mistake(
    exercise: Exercise, function: Callable[..., Any], failure: Failure, known: Sequence[tuple[Mistake, Failure]]
) -> str:
    """Explain the planted mistake that fails at the same question in the same way, if there is one.

    If several do, some of them do so by chance. Then the one that agrees most with the function on the later questions
    is chosen.
    """
    alike = [
        mistake
        for mistake, other in known
        if other.index == failure.index and failure.outcome.same_as(other.outcome, failure.case.tolerance)
    ]
    if len(alike) < 2:
        return alike[0].explanation if alike else ""
    mine = _outcomes_after(exercise, function, failure.index)

    def agreement(mistake: Mistake) -> int:
        others = _outcomes_after(exercise, mistake.function, failure.index)
        return sum(a.same_as(b, case.tolerance) for (case, a), (_, b) in zip(mine, others, strict=True))

    return max(alike, key=agreement).explanation


def _outcomes_after(exercise: Exercise, function: Callable[..., Any], index: int) -> list[tuple[Case, Outcome]]:
    pairs = list(zip(exercise.cases(), exercise.cases(), strict=True))[index + 1 :]
    return [(case, _ask(exercise, function, case, pristine)) for case, pristine in pairs]


def _run(function: Callable[..., Any], case: Case) -> Any:
    torch.manual_seed(0)  # so that all functions draw the same random numbers
    if case.raises is not None:
        raised = "nothing"
        try:
            function(*case.arguments, **case.keywords)
        except case.raises as error:
            raised = type(error).__name__
        return {"raised": raised, "afterwards": case.observe(None, case.arguments)}
    result = function(*case.arguments, **case.keywords)
    if isinstance(result, Iterator):
        result = list(result)
    return case.observe(result, case.arguments)


def _ask(exercise: Exercise, function: Callable[..., Any], case: Case, pristine: Case) -> Outcome:
    try:
        with MemoryMeter() if case.most_bytes is not None else nullcontext() as meter:
            value = _run(function, case)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # also SystemExit: the learner's code must not end the grader
        return Outcome(error=error)
    misdeed = "" if exercise.in_place else _changed_argument(exercise, case, pristine)
    if meter is not None and meter.peak_bytes > (case.most_bytes or 0):
        misdeed = (
            f"more than {case.most_bytes:,} bytes of tensors are held at the same time, the limit of this question"
        )
    return Outcome(value, misdeed=misdeed)


def _changed_argument(exercise: Exercise, case: Case, pristine: Case) -> str:
    kinds = (torch.Tensor, np.ndarray, list, Mapping)
    names = list(inspect.signature(exercise.stub).parameters)
    for name, mine, before in zip(names, case.arguments, pristine.arguments, strict=False):
        if isinstance(before, kinds) and first_difference(mine, before) is not None:
            return f"the function changes its argument {name}, which belongs to the caller"
    return ""


def _render_call(stub: Callable[..., Any], case: Case) -> str:
    """The call with the arguments by name: `causal_mask(num_queries=2, num_keys=4)`."""
    bound = inspect.signature(stub).bind(*case.arguments, **case.keywords)
    values: Sequence[str] = [f"{name}={_render(value)}" for name, value in bound.arguments.items()]
    return f"{stub.__name__}({', '.join(values)})"


def _render(value: Any) -> str:
    text = show(value)
    return f"<{type(value).__name__}>" if text.startswith("<") or "\n" in text or len(text) > 90 else text
