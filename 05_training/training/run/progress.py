"""The line that moves while a model trains: loss, speed, utilisation, memory, time left."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training.trainer import Trainer

RECENT = 10  # steps whose mean loss is shown; a mean over more would be too high while the loss falls fast


class TrainingProgress:
    """Shows each step.

    Args:
        progress: the bars.
        trainer: about to train.
        flops_per_token: arithmetic of training for each token, for the utilisation.
        peak_flops: what the devices of all processes can do together.
    """

    def __init__(self, progress: Progress, trainer: Trainer, flops_per_token: float, peak_flops: float):
        self.progress, self.flops_per_token, self.peak_flops = progress, flops_per_token, peak_flops
        self._recent: deque[float] = deque(maxlen=RECENT)
        self.task = progress.add_task(
            "train",
            total=trainer.recipe.training.max_steps,
            completed=trainer.step,
            loss=0.0,
            speed=0.0,
            mfu=0.0,
            memory=0.0,
        )

    def speed(self, trainer: Trainer) -> float:
        """Tokens a second since the run began."""
        return trainer.tokens_seen / max(trainer.seconds, 1e-9)

    def utilisation(self, trainer: Trainer) -> float:
        """Model FLOPs utilisation; see `peak_flops`."""
        return self.speed(trainer) * self.flops_per_token / self.peak_flops

    @property
    def smoothed(self) -> float:
        """Mean training loss of the last steps; 0 before the first."""
        return sum(self._recent) / max(1, len(self._recent))

    def print(self, line: str) -> None:
        """Print above the line that moves."""
        self.progress.console.print(line, highlight=False)

    def step(self, trainer: Trainer, loss: float) -> None:
        """Show a step."""
        if math.isfinite(loss):  # that of a skipped step may not be
            self._recent.append(loss)
        self.progress.update(
            self.task,
            completed=trainer.step,
            loss=self.smoothed,
            speed=self.speed(trainer),
            mfu=100 * self.utilisation(trainer),
            memory=trainer.placement.memory_in_use() / 2**30,
        )


@contextmanager
def training_progress(
    trainer: Trainer, flops_per_token: float, peak_flops: float, console: Console
) -> Iterator[TrainingProgress]:
    """Inside this context, the progress of a trainer is shown on the console."""
    columns = (
        TextColumn("Training"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TextColumn("{task.fields[speed]:,.0f} tokens/s"),
        TextColumn("MFU {task.fields[mfu]:.0f}%"),
        TextColumn("{task.fields[memory]:.1f} GiB"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield TrainingProgress(progress, trainer, flops_per_token, peak_flops)
