"""Answers to exercises as a learner would write them: the body of the function, below the head that the exercise gives."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import cache

from learn.catalogue import all_exercises, choose_one
from learn.exercise import Exercise
from learn.expectations import Expected, expectations, questions
from learn.grading import Failure, first_failure

_ENTRIES = all_exercises()


def failure_of(name: str, body: str) -> Failure | None:
    """The first question that an answer does not pass; None if it passes.

    Args:
        name: the exercise.
        body: the lines of the function, indented by four spaces except for the first, or all of them after a line feed.
    """
    head, _, _ = choose_one(_ENTRIES, name).stub.partition("    raise NotImplementedError(")
    lines = textwrap.indent(textwrap.dedent(body), "    ") if body.startswith("\n") else f"    {body}\n"
    namespace: dict = {"__name__": "answer"}
    exec(compile(head + lines, f"{name}.py", "exec", dont_inherit=True), namespace)
    exercise, expected = _loaded(name)
    return first_failure(exercise, namespace[exercise.stub.__name__], questions(exercise, expected))


def assert_passes(name: str, body: str) -> None:
    """The answer is right."""
    failure = failure_of(name, body)
    assert failure is None, (failure.question.case.what, failure.problem)


def assert_fails(name: str, what: str, body: str) -> None:
    """The answer is wrong, and not because of a slip in the test."""
    failure = failure_of(name, body)
    assert failure is not None, f"{name}: {what}"
    assert not isinstance(failure.outcome.error, (NameError, ImportError)) or isinstance(
        failure.outcome.error, UnboundLocalError
    ), f"{name}: {what}: {failure.problem}"


@cache
def _loaded(name: str) -> tuple[Exercise, Sequence[Expected]]:
    exercise = choose_one(_ENTRIES, name).load()
    return exercise, expectations(exercise)
