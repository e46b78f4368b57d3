"""The small changes by which an exercise's questions are tried."""

from __future__ import annotations

import pytest

from learn.catalogue import all_exercises, choose_one
from learn.expectations import expectations, questions
from learn.grading import first_failure
from mutate import changes, changes_of, compiled, reference_source


def test_operators_constants_conditions_statements_and_arguments_are_changed():
    source = """
        def f(a: int, b=1):
            \"\"\"What it does.\"\"\"
            if a < 3 and not b:
                raise ValueError(f"{a + 1} is small")
            return max(a[1:], key=len)
    """
    found = {difference for _, difference in changes(source)}
    assert "if a < 3 and (not b):  →  if a <= 3 and (not b):" in found
    assert "if a < 3 and (not b):  →  if a < 4 and (not b):" in found
    assert "if a < 3 and (not b):  →  if a < 3 or not b:" in found
    assert "if a < 3 and (not b):  →  if True:" in found
    assert "raise ValueError(f'{a + 1} is small')  →  pass" in found
    assert "return max(a[1:], key=len)  →  return min(a[1:], key=len)" in found
    assert "return max(a[1:], key=len)  →  return max(a[:], key=len)" in found
    assert "return max(a[1:], key=len)  →  return max(a[1:])" in found
    assert "return max(a[1:], key=len)  →  return a[1:]" in found
    assert not [difference for difference in found if "b=" in difference or "a - 1" in difference]
    assert not [difference for _, difference in changes(source, refusals=False) if "a < 3" in difference]


def test_what_an_answer_calls_is_changed_too_if_the_learner_writes_it():
    rouge, f1 = (reference_source(choose_one(all_exercises(), name).load()) for name in ("rouge_l", "token_f1"))
    assert "def _longest_common_subsequence" in rouge and "def require_texts" not in rouge
    assert "def normalise_answer" not in f1  # it is given


@pytest.mark.parametrize("name", ["bits_per_byte", "causal_mask", "split_special"])
def test_the_questions_notice_every_change(name: str):
    exercise = choose_one(all_exercises(), name).load()
    expected = expectations(exercise)
    for source, difference in changes_of(exercise):
        if "require_key_for_each_query" in difference:
            continue  # the exercise does not ask for refusals
        if "sorted(names, reverse=True)" in difference:
            continue  # the right order too: a name comes after every name that it is the beginning of
        function = compiled(exercise, source)
        assert first_failure(exercise, function, questions(exercise, expected)) is not None, difference
