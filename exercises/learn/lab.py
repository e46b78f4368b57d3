"""What a lab is made of: a function with a planted bug, and an experiment that shows what the bug does.

A lab is one file in a stage's folder `labs/`. Above the line that begins with `# ===` stands what the learner gets: a
complete function with the name and the signature of one in the package, and wrong. Below it, a `Lab`. The experiment is
run with the learner's file in the place of the package's function, and with the package's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from learn.exercise import Case, Exercise, Mistake
from learn.substitution import substituted

# What an experiment gives, by name: a figure, a text, or a curve (or row of figures).
Value: TypeAlias = "float | str | list[float]"
Measurement = dict[str, Value]

_STILL_THERE = "it is still wrong in the way it was given; learn lab shows the symptom, learn hint helps"


@dataclass(frozen=True)
class Lab:
    """A bug to be found.

    Args:
        broken: the function that the learner gets.
        reference: the function of the package that is right, as `module:name` or `module:Class.name`.
        cases: the questions that grade the repaired function; often those of an exercise.
        measure: the experiment. It calls the function by way of its module or class, as the package does, so that
            whatever stands there is measured. A few seconds on one core; the same result at each call.
        visible: whether the symptom shows, given what was measured of a file and of the package.
        repair: parts of the file and what to write for them, which mends it.
        hints: three: where to look; what to measure next; nearly the line.
        diagnosis: how one could have found it.
        in_place: whether the function is meant to change its arguments.
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
        """The lab as something to be graded."""
        mistakes = (Mistake(self.broken, _STILL_THERE),)
        return Exercise(self.broken, self.reference, self.cases, self.hints, mistakes, self.in_place)

    def experiment(self, function: Callable[..., object] | None = None) -> Measurement:
        """Run the experiment with a function in the place of the package's, or with the package's own."""
        torch.manual_seed(0)
        reference = self.exercise().resolve()
        with substituted(reference, function if function is not None else reference.function):
            return self.measure()

    def mended(self, text: str) -> str:
        """The text of the lab's file, repaired.

        Raises:
            ValueError: a part to be replaced is not there, or more than once.
        """
        for wrong, right in self.repair:
            if text.count(wrong) != 1:
                raise ValueError(f"this stands {text.count(wrong)} times in the file, and must once: {wrong}")
            text = text.replace(wrong, right)
        return text
