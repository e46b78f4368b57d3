"""The result of grading an exercise. It is separate from `grading`, so that reading grades does not import PyTorch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["passed", "failed", "to do"]


@dataclass(frozen=True)
class Grade:
    """The result of grading an exercise.

    Args:
        state: passed, failed or to do.
        passed: how many questions were answered right before the first wrong one.
        total: how many questions there are.
        question: the question that was answered wrong, in words.
        call: how the function was called.
        problem: what is wrong with the answer.
        line: where in the learner's file an exception was raised, with the line.
        likely: the mistake that gives the same wrong answer.
        printed: what the learner's code printed.
    """

    state: State
    passed: int = 0
    total: int = 0
    question: str = ""
    call: str = ""
    problem: str = ""
    line: str = ""
    likely: str = ""
    printed: str = ""

    def to_json(self) -> dict[str, Any]:
        """All fields in JSON types."""
        return asdict(self)
