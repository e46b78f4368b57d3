"""The learning rate over a run: up from zero, then down along a curve."""

from __future__ import annotations

import math

from training.config import ScheduleConfig


def learning_rate_factor(step: int, max_steps: int, config: ScheduleConfig) -> float:
    """What to multiply the peak learning rate by.

    Warm-up lets AdamW's second moments settle before steps become large; the decay lets the weights
    settle at the end (Loshchilov & Hutter, 2017, for the cosine).

    Args:
        step: optimizer steps taken so far, from 0.
        max_steps: steps of the run.
        config: shape of the curve.

    >>> [round(learning_rate_factor(s, 10, ScheduleConfig("linear", 2, 0.0)), 2) for s in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.12]
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.kind == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(1, max_steps - config.warmup_steps)  # from 0 to below 1
    curve = 1.0 - progress if config.kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.final_fraction + (1.0 - config.final_fraction) * curve
