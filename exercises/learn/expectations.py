"""What an exercise expects: every question, in every form that makes sense, with the right answer.

It is computed before the learner's file runs, in a process that never sees that file. What the file does to PyTorch, to
NumPy or to the package cannot change it.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learn.asking import ask, parameter_names, places, shares_memory
from learn.comparison import first_difference
from learn.exercise import Case, Exercise, FromReference
from learn.forms import FORMS

_ROUGH = 1e-4  # for float32; an answer that adds in another order may be so far off


@dataclass(frozen=True)
class Expected:
    """The right answer to one question.

    Args:
        index: which case it is.
        form: the name of the form in which it is asked; "" as it stands in the exercise.
        pickled: what should be observed. It is pickled at once, because what was observed may change later.
        tolerance: see `Case`.
        shared: names of the arguments that the result may share memory with.
        fresh: whether the result must be another object than at the first call.
    """

    index: int
    form: str
    pickled: bytes
    tolerance: float | None = None
    shared: frozenset[str] = frozenset()
    fresh: bool = False

    @property
    def value(self) -> Any:
        """What should be observed."""
        return pickle.loads(self.pickled)


@dataclass(frozen=True)
class Question:
    """A question that can be asked once.

    Args:
        expected: the right answer.
        case: the arguments, in the right form.
        pristine: the case as it stands in the exercise, with arguments of its own.
    """

    expected: Expected
    case: Case
    pristine: Case


def questions(exercise: Exercise, expected: Sequence[Expected]) -> Iterator[Question]:
    """Every question, with new arguments, made when it is asked: most wrong answers fail at one of the first."""
    unused, pristine = exercise.cases(), list[Case]()
    for form, group in groupby(expected, key=lambda one: one.form):
        cases = enumerate(exercise.cases())
        for one in group:
            case = next(case for index, case in cases if index == one.index)
            changed = FORMS[form].of(case) if form else None
            while len(pristine) <= one.index:
                pristine.append(next(unused))
            phrase = FORMS[form].phrase if changed else "asked again" if form else ""
            what = "; ".join(filter(None, [case.what, phrase]))
            yield Question(one, replace(changed or case, what=what), pristine[one.index])


def expectations(exercise: Exercise) -> list[Expected]:
    """What the exercise expects: first each case as it stands, then in other forms.

    Raises:
        Exception: whatever the package's function raises.
    """
    function, names = exercise.resolve().function, parameter_names(exercise.stub)
    found, results = [], []
    for index, case in enumerate(exercise.cases()):
        outcome = ask(function, case, names)
        if outcome.error is not None:
            raise outcome.error
        value = outcome.value if isinstance(case.expected, FromReference) else case.expected
        found.append(Expected(index, "", pickle.dumps(value), case.tolerance, outcome.shared))
        results.append(outcome.result)
    for form in FORMS:
        if form == "gradient" and not exercise.differentiable:
            continue
        for first, case, result in zip(list(found), exercise.cases(), results, strict=False):
            if case.most_bytes is None and (form == "again" or case.raises is None):
                found += _in_another_form(exercise, form, case, first, result)
    return found


def _in_another_form(exercise: Exercise, form: str, case: Case, first: Expected, result: Any) -> Iterator[Expected]:
    """The right answer to a case in another form. There is none if the form makes no sense for this case."""
    changed = FORMS[form].of(case)
    if changed is None and not (form == "again" and first.index == 0):  # one of those that look the same is asked again
        return
    function, names = exercise.resolve().function, parameter_names(exercise.stub)
    outcome = ask(function, changed or case, names, gradient=form == "gradient")
    if outcome.error is not None:
        return
    tolerance, fresh = case.tolerance, False
    if form == "again":
        if first_difference(outcome.value, first.value, case.tolerance) is not None:
            return  # the order of a dictionary, for example, is meant
        fresh = not shares_memory(result, outcome.result)
    elif form == "device":
        if not any(isinstance(x, Tensor) and x.device.type == "meta" for x in _arrays(outcome.value)):
            return
    elif form != "gradient":
        numbers, before = _floats(outcome.value), _floats(first.value)
        if {str(x.dtype) for x in numbers} != {form}:
            return  # the result has a type of its own
        if form == "float32":
            tolerance = max(_ROUGH, case.tolerance or 0.0)
            if not all(np.allclose(x, y, _ROUGH, _ROUGH, equal_nan=True) for x, y in zip(numbers, before, strict=True)):
                return  # float32 is not enough for this case
        elif not all((x == x.astype(np.float32)).all() for x in numbers):  # it was computed in float64
            tolerance = None
    yield Expected(first.index, form, pickle.dumps(outcome.value), tolerance, outcome.shared, fresh)


def _floats(value: Any) -> list[np.ndarray]:
    """The arrays and tensors of floats in a value."""
    arrays = [x.detach().numpy() if isinstance(x, Tensor) and x.dtype != torch.bfloat16 else x for x in _arrays(value)]
    return [x for x in arrays if isinstance(x, np.ndarray) and x.dtype.kind == "f"]


def _arrays(value: Any) -> list[Any]:
    return [x for _, x in places(value) if isinstance(x, (Tensor, np.ndarray))]
