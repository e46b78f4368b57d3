"""Every exercise: right answers pass, the stub is not done, and each planted wrong answer fails and is recognised."""

from __future__ import annotations

import ast
import doctest
import functools
import inspect

import pytest

from learn.catalogue import MARKER, ROOT, Entry, all_exercises
from learn.exercise import Exercise
from learn.expectations import expectations, questions
from learn.grading import first_failure, known_failures, likely_mistake
from learn.substitution import CountedFunction, substituted
from mutate import compiled, reference_source

EXERCISES = all_exercises()
PACKAGES = [path.name for path in sorted(ROOT.glob("0?_*/*")) if (path / "__init__.py").is_file()]
each = pytest.mark.parametrize("entry", EXERCISES, ids=[f"{entry.number}-{entry.name}" for entry in EXERCISES])


@functools.cache
def loaded(entry: Entry) -> Exercise:
    return entry.load()


@pytest.mark.slow
@each
def test_the_package_passes_and_each_planted_mistake_fails_and_is_told_apart(entry: Entry):
    exercise = loaded(entry)
    expected = expectations(exercise)
    package = CountedFunction(exercise.resolve().function)
    asked = list(questions(exercise, expected))
    with substituted(
        exercise.resolve(), package.function
    ):  # a copy of the right answer does not count as the package's
        failure = first_failure(exercise, compiled(exercise, reference_source(exercise)), asked, lambda: package.calls)
    assert failure is None, (failure.question.case.what, failure.problem)
    todo = first_failure(exercise, exercise.stub, questions(exercise, expected))
    assert todo is not None and isinstance(todo.outcome.error, NotImplementedError)
    known = known_failures(exercise, expected)  # asserts that each one fails
    assert len(known) >= 2
    for mistake, failure in known:
        assert likely_mistake(exercise, mistake.function, failure, known, expected) == mistake.explanation, (
            failure.question.case.what,
            failure.problem,
        )


@each
def test_the_stub_has_the_signature_of_the_package(entry: Entry):
    exercise = loaded(entry)
    reference = exercise.resolve()
    assert exercise.stub.__name__ == reference.name
    assert _signature(exercise.stub) == _signature(inspect.unwrap(reference.function))


@each
def test_the_stub_says_what_is_to_do(entry: Entry):
    exercise = loaded(entry)
    assert f'raise NotImplementedError("Exercise {entry.number}: ' in entry.stub
    assert len(entry.title) <= 52  # the column that `learn check` has for it
    assert len(exercise.hints) == 3 and len(set(exercise.hints)) == 3
    # It is complete by itself, without any part of the grader.
    assert "learn." not in entry.stub and "EXERCISE" not in entry.stub
    assert entry.path.read_text(encoding="utf-8").count(f"\n{MARKER}") == 1
    namespace: dict = {"__name__": "stub"}
    exec(compile(entry.stub, entry.path.name, "exec"), namespace)
    assert callable(namespace[exercise.stub.__name__])


@each
def test_the_examples_are_right(entry: Entry):
    exercise = loaded(entry)
    names = {**exercise.cases.__globals__, exercise.stub.__name__: exercise.resolve().function}
    for test in doctest.DocTestFinder().find(exercise.stub, "stub", globs=names):
        assert doctest.DocTestRunner().run(test).failed == 0


@each
def test_an_exercise_knows_its_own_stage_and_earlier_ones(entry: Entry):
    allowed = {*PACKAGES[: entry.stage], "learn"}
    for node in ast.walk(ast.parse(entry.path.read_text(encoding="utf-8"))):
        module = node.module if isinstance(node, ast.ImportFrom) else None
        if module and module.partition(".")[0] in {*PACKAGES, "learn"}:
            assert module.partition(".")[0] in allowed, module


def test_every_stage_has_six_to_twelve_exercises_numbered_in_order():
    assert PACKAGES[0] == "neural_networks" and len(PACKAGES) == 9
    for stage in range(1, 10):
        places = [entry.place for entry in EXERCISES if entry.stage == stage]
        assert places == list(range(1, len(places) + 1))
        assert 6 <= len(places) <= 12
        assert all(entry.folder.startswith(f"{stage:02}_") for entry in EXERCISES if entry.stage == stage)


def test_the_readme_lists_every_exercise():
    text = (ROOT / "exercises" / "README.md").read_text(encoding="utf-8")
    for entry in EXERCISES:
        link = f"../{entry.folder}/exercises/{entry.path.name}"
        assert f"| {entry.number} | [{entry.title}]({link}) |" in text
    assert f": {len(EXERCISES)} in all" in text


def test_names_are_distinct():
    names = [entry.name for entry in EXERCISES]
    assert len(set(names)) == len(names)  # the workspace and the type checker know exercises by name


def _signature(function) -> list[tuple[str, object, object, str]]:
    parameters = inspect.signature(function).parameters.values()
    # `self` has a type in a stub, because the stub is outside its class, and has none in the package.
    return [(p.name, p.kind, p.default, "" if p.name == "self" else str(p.annotation)) for p in parameters]
