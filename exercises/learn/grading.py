"""Grade one function: ask it every question, and if an answer is wrong, find the known mistake behind it.

Planted wrong answers are compared with the learner's function on the failed question. If one gives the same
result, it shows what was misunderstood. Nothing that the learner's code does raises an error here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from learn.asking import Outcome, ask, parameter_names, shares_memory
from learn.comparison import first_difference, show
from learn.exercise import Case, Exercise, Mistake
from learn.expectations import Expected, Question, expectations, questions
from learn.grade import Grade
from learn.learners_file import describe, load_function, own_line
from learn.limits import BoundedText
from learn.substitution import CountedFunction, substituted


def grade_file(exercise: Exercise, path: Path, expected: Sequence[Expected] | None = None) -> Grade:
    """Grade the function in a learner's file.

    Args:
        exercise: the exercise that it should solve.
        path: the path of the file.
        expected: the right answers, if they have been computed already.
    """
    expected = expectations(exercise) if expected is None else expected
    asked = list(questions(exercise, expected))  # before the file can change what they are made with
    printed = BoundedText()
    reference = exercise.resolve()
    package = CountedFunction(reference.function)
    with redirect_stdout(printed), redirect_stderr(BoundedText()), substituted(reference, package.function):
        try:
            function = load_function(path, exercise.stub.__name__)
        except BaseException as error:  # also SystemExit: the learner's code must not end the grader
            return Grade("failed", problem=describe(error), line=own_line(error, path), printed=printed.kept)
        failure = first_failure(exercise, function, asked, lambda: package.calls)
        grade = _grade(exercise, function, failure, expected, path)
    return replace(grade, printed=printed.kept)


def grade_function(exercise: Exercise, function: Callable[..., Any]) -> Grade:
    """Grade a function.

    Args:
        exercise: the exercise that it should solve.
        function: the answer.
    """
    expected = expectations(exercise)
    return _grade(exercise, function, first_failure(exercise, function, questions(exercise, expected)), expected)


def _grade(
    exercise: Exercise,
    function: Callable[..., Any],
    failure: Failure | None,
    expected: Sequence[Expected],
    path: Path | None = None,
) -> Grade:
    total = sum(not one.form for one in expected)
    if failure is None:
        return Grade("passed", total, total)
    error = failure.outcome.error
    if isinstance(error, NotImplementedError) and str(error).startswith("Exercise "):
        return Grade("to do", total=total)
    problem, line, likely = failure.problem, "", ""
    if error is not None and path is not None:
        line = own_line(error, path)
    if _returned_nothing(exercise, failure) and not line:
        problem += "; did you forget `return`?"
    with suppress(Exception):  # the learner's file may have changed what the planted mistakes are made of
        likely = likely_mistake(exercise, function, failure, known_failures(exercise, expected), expected)
    return Grade(
        "failed",
        failure.question.expected.index,
        total,
        failure.question.case.what,
        _render_call(exercise.stub, failure.question.pristine),
        problem,
        line,
        likely,
    )


def _returned_nothing(exercise: Exercise, failure: Failure) -> bool:
    """Whether a function returned None where that is never right, and this is what was noticed."""
    asked, outcome = failure.question, failure.outcome
    may_be_none = "None" in str(exercise.stub.__annotations__.get("return", "None"))
    unnoticed = outcome.error is not None and "NoneType" not in str(outcome.error)
    return outcome.result is None and not (may_be_none or unnoticed or asked.case.raises or asked.expected.form)


@dataclass(frozen=True)
class Failure:
    """The first question that a function answers wrong.

    Args:
        question: the question.
        outcome: what the function did.
        problem: what is wrong with the outcome, in words.
    """

    question: Question
    outcome: Outcome
    problem: str


def first_failure(
    exercise: Exercise,
    function: Callable[..., Any],
    asked: Iterable[Question] | None = None,
    package_calls: Callable[[], int] = lambda: 0,
) -> Failure | None:
    """Ask every question until one is answered wrong; return None if all are answered right.

    Args:
        exercise: the exercise.
        function: the answer.
        asked: the questions, if they have been made already.
        package_calls: how often the package's own function has been called so far.
    """
    if asked is None:
        asked = questions(exercise, expectations(exercise))
    names = parameter_names(exercise.stub)
    earlier: dict[int, Any] = {}
    for question in asked:
        outcome = _answer(exercise, function, question, names, package_calls)
        index, form = question.expected.index, question.expected.form
        problem = _problem(outcome, question.expected, earlier.get(index))
        if problem:
            return Failure(question, outcome, problem)
        if not form:
            earlier[index] = outcome.result
    return None


def _answer(
    exercise: Exercise,
    function: Callable[..., Any],
    question: Question,
    names: list[str],
    package_calls: Callable[[], int] = lambda: 0,
) -> Outcome:
    form = question.expected.form
    pristine = None if form or exercise.in_place else question.pristine
    return ask(function, question.case, names, pristine, form == "gradient", package_calls)


def _problem(outcome: Outcome, expected: Expected, earlier: Any) -> str:
    """What is wrong with an answer, or an empty text."""
    if outcome.error is not None:
        needs_numbers = isinstance(outcome.error, NotImplementedError) or "meta tensor" in str(outcome.error).lower()
        return "" if expected.form == "device" and needs_numbers else describe(outcome.error)
    try:
        difference = first_difference(outcome.value, expected.value, expected.tolerance)
        again = expected.fresh and shares_memory(earlier, outcome.result)
    except BaseException as error:  # a learner's object may do anything when it is compared
        return describe(error)
    if difference or outcome.misdeed:
        return difference or outcome.misdeed
    if again:
        return "the result is the same object as at an earlier call: a change of one changes the other"
    if names := sorted(outcome.shared - expected.shared):
        return f"the result shares its memory with the argument {names[0]}: a change of one changes the other"
    return ""


def known_failures(exercise: Exercise, expected: Sequence[Expected] | None = None) -> list[tuple[Mistake, Failure]]:
    """How each planted mistake fails."""
    expected = expectations(exercise) if expected is None else expected
    found = []
    for mistake in exercise.mistakes:
        failure = first_failure(exercise, mistake.function, questions(exercise, expected))
        assert failure is not None, f"a planted mistake is right: {mistake.explanation}"
        found.append((mistake, failure))
    return found


def likely_mistake(
    exercise: Exercise,
    function: Callable[..., Any],
    failure: Failure,
    known: Sequence[tuple[Mistake, Failure]],
    expected: Sequence[Expected],
) -> str:
    """Explain the planted mistake that fails at the same question in the same way, if there is one.

    If several do, some of them do so by chance. Then the one that agrees most with the function on the later questions
    is chosen.
    """
    at = failure.question.expected
    alike = [
        mistake
        for mistake, other in known
        if (other.question.expected.form, other.question.expected.index) == (at.form, at.index)
        and failure.outcome.same_as(other.outcome, at.tolerance)
    ]
    if len(alike) < 2:
        return alike[0].explanation if alike else ""
    later = [one for one in expected if not one.form and (at.form or one.index > at.index)]
    mine = _outcomes(exercise, function, later)

    def agreement(mistake: Mistake) -> int:
        others = _outcomes(exercise, mistake.function, later)
        return sum(a.same_as(b, one.tolerance) for one, a, b in zip(later, mine, others, strict=True))

    return max(alike, key=agreement).explanation


def _outcomes(exercise: Exercise, function: Callable[..., Any], asked: Sequence[Expected]) -> list[Outcome]:
    names = parameter_names(exercise.stub)
    return [_answer(exercise, function, question, names) for question in questions(exercise, asked)]


def _render_call(stub: Callable[..., Any], case: Case) -> str:
    """The call with the arguments by name: `causal_mask(num_queries=2, num_keys=4)`."""
    bound = inspect.signature(stub).bind(*case.arguments, **case.keywords)
    values: Sequence[str] = [f"{name}={_render(value)}" for name, value in bound.arguments.items()]
    return f"{stub.__name__}({', '.join(values)})"


def _render(value: Any) -> str:
    text = show(value)
    return f"<{type(value).__name__}>" if text.startswith("<") or "\n" in text or len(text) > 90 else text
