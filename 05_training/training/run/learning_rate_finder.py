"""A range test for the learning rate (Smith, 2015): raise it from very small to far too large, and watch the loss.

While the rate is too small, nothing happens; then the loss falls; then it explodes. A good peak rate is where
it falls fastest, well below where it turns. Even with warm-up and decay, the rate must not be higher than the
model bears in its first steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from training.optimizers.parameter_groups import set_learning_rate
from training.run.rehearsal import rehearsal
from training.trainer import Trainer, TrainingError

STEPS = 80
LOWEST, HIGHEST = 1e-3, 30.0  # factors on the configured rates
CURVE_FILE = "learning_rates.png"
SMOOTHING = 0.8
BLOWN_UP = 1.3  # times the lowest loss so far


@dataclass(frozen=True)
class RangeTest:
    """What the test saw.

    Args:
        factors: on the configured learning rates.
        losses: smoothed, at each factor.
        steepest: the factor at which the loss fell fastest.
        lowest: the factor at which it was lowest, shortly before it rises.
    """

    factors: list[float]
    losses: list[float]
    steepest: float
    lowest: float


def range_test(trainer: Trainer, steps: int = STEPS) -> RangeTest:
    """Train with growing rates, then undo it; ends early when the loss blows up."""
    factors: list[float] = []
    losses: list[float] = []
    smoothed = None
    trainer.model.train()
    peaks = [group["peak_lr"] for o in trainer.optimizers for group in o.param_groups]
    groups = [group for o in trainer.optimizers for group in o.param_groups]
    with rehearsal(trainer):
        try:
            for index in range(steps):
                factor = LOWEST * (HIGHEST / LOWEST) ** (index / (steps - 1))
                for group, peak in zip(groups, peaks, strict=True):
                    group["peak_lr"] = peak * factor
                trainer.step = trainer.recipe.schedule.warmup_steps  # where the schedule is at its peak
                loss, _ = trainer.take_step()
                if not math.isfinite(loss):
                    break
                smoothed = loss if smoothed is None else SMOOTHING * smoothed + (1 - SMOOTHING) * loss
                factors.append(factor)
                losses.append(smoothed)
                if smoothed > BLOWN_UP * min(losses):
                    break
        except TrainingError:
            pass  # too many losses were not numbers: that ends the test too
        finally:
            for group, peak in zip(groups, peaks, strict=True):
                group["peak_lr"] = peak
    set_learning_rate(trainer.optimizers, 1.0)
    if len(losses) < 3:
        raise TrainingError("the loss blew up at the smallest learning rate: lower optimizer.lr by a factor of 1,000")
    slopes = [losses[i + 1] - losses[i - 1] for i in range(1, len(losses) - 1)]
    return RangeTest(factors, losses, factors[1 + slopes.index(min(slopes))], factors[losses.index(min(losses))])


def find_learning_rate(trainer: Trainer, console: Console) -> None:
    """Run the test, print between which rates a good one lies, and draw the losses."""
    with console.status(f"Trying learning rates for {STEPS} steps …"):
        test = range_test(trainer)
    for optimizer in trainer.optimizers:
        rate = optimizer.param_groups[0]["peak_lr"]
        name = type(optimizer).__name__
        console.print(
            f"{name}: the loss fell fastest at a rate of {rate * test.steepest:.2g} and was lowest at "
            f"{rate * test.lowest:.2g}; a good one lies between (configured: {rate:g})",
            highlight=False,
        )
    path = _draw(test, trainer.run.folder)
    console.print(f"Losses by learning rate: {path}", highlight=False)


def _draw(test: RangeTest, folder: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), dpi=120)
    axes.semilogx(test.factors, test.losses)
    axes.axvline(test.steepest, linestyle="--", color="C1", label=f"fastest fall: {test.steepest:.2g}")
    axes.axvline(test.lowest, linestyle=":", color="C2", label=f"lowest: {test.lowest:.2g}")
    axes.set(xlabel="learning rate / configured learning rate", ylabel="loss (smoothed)", title="Range test")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CURVE_FILE
    figure.savefig(path)
    plt.close(figure)
    return path
