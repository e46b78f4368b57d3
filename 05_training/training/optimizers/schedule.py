"""The learning rate over a run: up from zero, then down along a curve."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from groundwork.user_errors import require, require_choices


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate moves over the run.

    Args:
        kind: the curve after the warm-up: cosine, linear, wsd (stable, then a linear decay), inverse_sqrt or constant.
        warmup_steps: steps in which the rate rises from 0 to its peak.
        final_fraction: where cosine, linear and wsd end when all steps are taken, as a share of the peak. The other
            kinds do not decay to an end, and ignore it.
        decay_fraction: share of the run in which wsd decays. The other kinds ignore it.
    """

    kind: Literal["cosine", "linear", "wsd", "inverse_sqrt", "constant"] = "cosine"
    warmup_steps: int = 50
    final_fraction: float = 0.1
    decay_fraction: float = 0.3

    def __post_init__(self) -> None:
        require_choices(self, "schedule")
        require(self.warmup_steps >= 0, f"schedule.warmup_steps must not be negative, got {self.warmup_steps}")
        require(
            0.0 <= self.final_fraction <= 1.0,
            f"schedule.final_fraction must be between 0 and 1, got {self.final_fraction}",
        )
        require(
            0.0 < self.decay_fraction <= 1.0,
            f"schedule.decay_fraction must be above 0 and at most 1, got {self.decay_fraction}",
        )


def learning_rate_factor(step: int, max_steps: int, config: ScheduleConfig) -> float:
    """What to multiply the peak learning rate by.

    Warm-up lets AdamW's second moments settle before steps become large; the decay lets the weights
    settle at the end.

    - cosine (Loshchilov & Hutter, 2017) and linear fall all the way from the peak;
    - wsd, warm-up, stable, decay (Hu et al., 2024: MiniCPM), stays at the peak and falls linearly in the
      last `decay_fraction` of the run, so that one long run can be ended at any point by a short decay;
    - inverse_sqrt (Vaswani et al., 2017) falls like 1 / sqrt(step), however long the run is;
    - constant stays.

    Args:
        step: optimizer steps taken so far, from 0. Past the end of the run the factor stays where it ended.
        max_steps: steps of the run.
        config: shape of the curve.

    Raises:
        ValueError: a negative step, or a run of no steps.

    >>> [round(learning_rate_factor(s, 10, ScheduleConfig("linear", 2, 0.0)), 2) for s in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.12]
    >>> [round(learning_rate_factor(s, 10, ScheduleConfig("wsd", 0, 0.0, 0.4)), 2) for s in (0, 6, 7, 8, 9)]
    [1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < 0 or max_steps < 1:
        raise ValueError(f"a schedule needs a step from 0 on and a run of at least 1, got step {step} of {max_steps}")
    step = min(step, max_steps)
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.kind == "constant":
        return 1.0
    if config.kind == "inverse_sqrt":
        return math.sqrt(max(1, config.warmup_steps) / (step + 1))
    decay_start = config.warmup_steps
    if config.kind == "wsd":
        decay_start = max(decay_start, round(max_steps * (1.0 - config.decay_fraction)))
    if step < decay_start:
        return 1.0
    progress = (step - decay_start) / max(1, max_steps - decay_start)  # from 0 to 1
    curves = {"cosine": 0.5 * (1.0 + math.cos(math.pi * progress)), "linear": 1.0 - progress, "wsd": 1.0 - progress}
    return config.final_fraction + (1.0 - config.final_fraction) * curves[config.kind]
