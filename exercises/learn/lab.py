"""What a lab is made of: a function with a planted bug, and an experiment that shows what the bug does.

A lab is one file in a stage's folder `labs/`. The part above the line that begins with `# ===` is what the learner gets:
a complete function that is wrong, with the name and the signature of one in the package. Below it is a `Lab`. The
experiment runs once with the function from the learner's file and once with the package's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from learn.exercise import Case, Exercise, Mistake
from learn.substitution import substituted

# What an experiment gives, by name: a number, a text, or a curve (or a row of numbers).
Value: TypeAlias = "float | str | list[float]"
Measurement = dict[str, Value]

_STILL_THERE = "it is still wrong in the same way as at the start; learn lab shows the symptom, learn hint helps"


@dataclass(frozen=True)
class Lab:
    """A bug to be found.

    Args:
        broken: the function that the learner gets.
        reference: the function of the package that is right, as `module:name` or `module:Class.name`.
        cases: the questions that grade the repaired function; often those of an exercise.
        measure: the experiment. It calls the function through its module or class, as the package does, so that it
            measures the function that stands there. It takes a few seconds on one core and always gives the same result.
        visible: whether the symptom is visible, given the measurements with a file and with the package.
        repair: pairs of a wrong part of the file and the right text for it.
        hints: three hints: where to look; what to measure next; nearly the line.
        diagnosis: how one could have found the bug.
        in_place: whether the function should change its arguments.
    """

    broken: Callable[..., object]
    reference: str
    cases: Callable[[], Iterator[Case]]
    measure: Callable[[], Measurement]
    visible: Callable[[Measurement, Measurement], bool]
    repair: Sequence[tuple[str, str]]
    hints: tuple[str, str, str]
    diagnosis: str
    in_place: bool = False

    def exercise(self) -> Exercise:
        """The lab as an exercise that can be graded."""
        mistakes = (Mistake(self.broken, _STILL_THERE),)
        return Exercise(self.broken, self.reference, self.cases, self.hints, mistakes, self.in_place)

    def experiment(self, function: Callable[..., object] | None = None) -> Measurement:
        """Run the experiment with a function instead of the package's, or with the package's own."""
        torch.manual_seed(0)
        reference = self.exercise().resolve()
        with substituted(reference, function if function is not None else reference.function):
            return self.measure()

    def mended(self, text: str) -> str:
        """The text of the lab's file, repaired.

        Raises:
            ValueError: a part to be replaced is missing, or occurs more than once.
        """
        for wrong, right in self.repair:
            if text.count(wrong) != 1:
                raise ValueError(f"this occurs {text.count(wrong)} times in the file, but must occur once: {wrong}")
            text = text.replace(wrong, right)
        return text
