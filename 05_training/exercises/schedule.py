"""Exercise 5.3: The learning rate over a run."""

from __future__ import annotations

import math

from training.optimizers.schedule import ScheduleConfig


def learning_rate_factor(step: int, max_steps: int, config: ScheduleConfig) -> float:
    """The factor for the peak learning rate at each step.

    Warm-up: (step + 1) / warmup_steps, so that the first step is not lost and the last step of the warm-up is at the peak.
    After the warm-up, `config.kind` decides:

    - constant: 1.
    - inverse_sqrt: sqrt(max(1, warmup_steps) / (step + 1)).
    - linear: from 1 at the end of the warm-up down to final_fraction at max_steps, in a straight line.
    - cosine: the same, along half a cosine: f + (1 - f) · (1 + cos(π progress)) / 2, where f is final_fraction.
    - wsd: 1 until the last decay_fraction of the run; then down in a straight line as above. The decay begins at step
      round(max_steps · (1 - decay_fraction)), but not before the warm-up ends.

    Progress is (step - start of the decay) / (max_steps - start of the decay). Past max_steps the factor stays where it ended.

    Args:
        step: how many optimizer steps were taken so far, from 0.
        max_steps: how many steps the run has.
        config: `kind`, `warmup_steps`, `final_fraction`, `decay_fraction`.

    >>> [round(learning_rate_factor(s, 10, ScheduleConfig("linear", 2, 0.0)), 2) for s in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.12]
    """
    raise NotImplementedError("Exercise 5.3: up, then down along a curve")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """Each kind, at its turning points; without a warm-up; a warm-up and nothing else; roundings; past the end."""
    for kind, steps in (
        ("cosine", (0, 1, 2, 5, 6, 9, 10)),
        ("linear", (0, 1, 2, 6, 9, 10)),
        ("constant", (0, 1, 2, 9)),
        ("inverse_sqrt", (0, 1, 2, 7)),
        ("wsd", (0, 2, 6, 7, 8, 9)),
    ):
        for step in steps:
            yield Case(f"{kind}, step {step} of 10, warm-up of 2", [step, 10, ScheduleConfig(kind, 2, 0.1, 0.3)])  # type: ignore[arg-type]
    yield Case("inverse_sqrt without a warm-up", [3, 10, ScheduleConfig("inverse_sqrt", 0)])
    yield Case("cosine without a warm-up", [0, 10, ScheduleConfig("cosine", 0, 0.25)])
    yield Case("cosine that ends at a quarter", [7, 10, ScheduleConfig("cosine", 0, 0.25)])
    yield Case("linear, with a warm-up as long as the run", [9, 10, ScheduleConfig("linear", 10)])
    yield Case("linear, with a warm-up as long as the run, step 12", [12, 10, ScheduleConfig("linear", 10)])
    yield Case("linear, with one step after the warm-up, at the end", [10, 10, ScheduleConfig("linear", 9)])
    yield Case("linear, step 12 of 10", [12, 10, ScheduleConfig("linear", 2, 0.25)])
    yield Case("inverse_sqrt, step 12 of 10", [12, 10, ScheduleConfig("inverse_sqrt", 2)])
    yield Case("wsd, whose decay begins at step round(2.8) = 3", [3, 4, ScheduleConfig("wsd", 0, 0.1, 0.3)])
    yield Case("wsd, whose decay begins at step round(2.5) = 2", [3, 5, ScheduleConfig("wsd", 0, 0.1, 0.5)])
    yield Case("wsd whose warm-up reaches into the decay", [8, 10, ScheduleConfig("wsd", 8, 0.0, 0.9)])


def _factor(step: int, max_steps: int, config: ScheduleConfig, **wrong: bool) -> float:
    kind, warmup, end = config.kind, config.warmup_steps, config.final_fraction
    if not wrong.get("goes_on"):
        step = min(step, max_steps)
    if wrong.get("progress_first"):
        (step - warmup) / (max_steps - warmup)
    if step < warmup or (wrong.get("one_step_more") and step == warmup > 0):
        return (step if wrong.get("from_zero") else step + 1) / warmup
    if kind == "constant":
        return 1.0
    if kind == "inverse_sqrt":
        return math.sqrt((warmup if wrong.get("no_floor") else max(1, warmup)) / (step + 1))
    start = warmup
    if kind == "wsd":
        begin = max_steps * (1 - config.decay_fraction)
        start = int(begin) if wrong.get("cut_off") else math.ceil(begin) if wrong.get("up") else round(begin)
        start = start if wrong.get("decay_before_warmup") else max(warmup, start)
        if step < start and not wrong.get("decay_from_warmup"):
            return 1.0
        start = warmup if wrong.get("decay_from_warmup") else start
    if wrong.get("warmup_in_progress") and kind == "cosine":
        start = 0
    last = max_steps - 1 if wrong.get("one_short") else max_steps
    progress = (step - start) / max(1, last - start)
    curve = 1 - progress
    if kind == "cosine":
        curve = 0.5 * (1 + math.cos((2 if wrong.get("whole_cosine") else 1) * math.pi * progress))
    if wrong.get("to_zero") or (wrong.get("line_to_zero") and kind == "linear"):
        return curve
    if wrong.get("tenth"):
        end = 0.1
    return end + (1 if wrong.get("above_one") and kind == "cosine" else 1 - end) * curve


def _mistaken(name: str) -> Callable[..., Any]:
    def learning_rate_factor(step: int, max_steps: int, config: ScheduleConfig) -> float:
        return _factor(step, max_steps, config, **{name: True})

    return learning_rate_factor


EXERCISE = Exercise(
    stub=learning_rate_factor,
    reference="training.optimizers.schedule:learning_rate_factor",
    cases=cases,
    hints=(
        "First do the warm-up and return, then constant and inverse_sqrt. The other kinds have a start of the decay.",
        "start is warmup_steps; for wsd it is max(warmup_steps, round(max_steps * (1 - decay_fraction))). Before it the factor "
        "is 1. After it progress goes from 0 to 1, and the curve from 1 to 0.",
        "curve = 0.5 * (1 + math.cos(math.pi * progress)) if cosine else 1 - progress; return f + (1 - f) * curve.",
    ),
    mistakes=(
        Mistake(_mistaken("from_zero"), "the first step would have the rate 0 and be lost: (step + 1) / warmup_steps"),
        Mistake(
            _mistaken("warmup_in_progress"),
            "the decay begins where the warm-up ends; its steps are not part of the progress",
        ),
        Mistake(_mistaken("to_zero"), "the curve ends at final_fraction, not at 0"),
        Mistake(_mistaken("line_to_zero"), "the line ends at final_fraction, not at 0"),
        Mistake(_mistaken("above_one"), "f + (1 - f) · curve: without 1 - f the curve begins above 1"),
        Mistake(_mistaken("one_short"), "the curve ends at max_steps, after the last step, not at max_steps - 1"),
        Mistake(_mistaken("cut_off"), "the start of wsd's decay is rounded to the nearest step, not rounded down"),
        Mistake(_mistaken("whole_cosine"), "half a cosine, from 1 to -1: cos(π progress)"),
        Mistake(_mistaken("decay_from_warmup"), "wsd stays at the peak until the last decay_fraction of the run"),
        Mistake(_mistaken("decay_before_warmup"), "wsd's decay does not begin before the warm-up ends"),
        Mistake(_mistaken("up"), "the start of wsd's decay is rounded to the nearest step, not rounded up"),
        Mistake(_mistaken("one_step_more"), "the warm-up is the steps below warmup_steps: here it is one step longer"),
        Mistake(_mistaken("no_floor"), "without a warm-up, inverse_sqrt begins at 1: max(1, warmup_steps)"),
        Mistake(_mistaken("progress_first"), "a warm-up may be as long as the run: return in it before you divide"),
        Mistake(_mistaken("tenth"), "the curve ends at config.final_fraction, which need not be 0.1"),
        Mistake(_mistaken("goes_on"), "past max_steps the factor stays where it ended: min(step, max_steps)"),
    ),
)
