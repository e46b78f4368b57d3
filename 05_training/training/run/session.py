"""One session of a run: begin or continue, take the steps that are left, record them, stop in good order.

Pretraining and fine-tuning do this in the same way. What one of them adds, such as samples during the run or a report
at the end, is in a subclass that overrides the methods below `run`.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.console import Console

from training.checkpoints.checkpoint import list_checkpoints
from training.checkpoints.resuming import changed_length, checkpoint_to_resume
from training.run.progress import TrainingProgress, training_progress
from training.run.rehearsal import seconds_per_step
from training.run.run_folder import RunFolder
from training.run.tracking import Tracker, TrackingConfig
from training.trainer import Trainer
from transformer.model_summary import training_flops_per_token

INTERRUPTED = 130  # the exit status of a command that Ctrl-C ended


class ResumableConfig(Protocol):
    """A configuration of a run: a dataclass with these fields among others."""

    @property
    def resume(self) -> Literal["auto", "never"]:
        """Whether an earlier run in the same folder is continued."""
        ...

    @property
    def training(self) -> Any:
        """A `TrainingConfig`."""
        ...


class Session:
    """Trains, and prints and records what happens.

    Args:
        trainer: one that has taken no step yet.
        console: where to print; quiet in every process except the main one.
        tracking: what is recorded.
    """

    def __init__(self, trainer: Trainer, console: Console, tracking: TrackingConfig):
        self.trainer, self.console, self.tracking = trainer, console, tracking
        self.checkpoint: Path | None = None  # the one that the run continues from

    def resume(self, config: ResumableConfig, folder: RunFolder) -> None:
        """Continue an earlier run in the same folder, if there is one.

        Args:
            config: its `resume` says what to do. auto continues; with never, an earlier run gets another name.
            folder: of this run, with all that is in it.

        Raises:
            CheckpointError: the earlier run had other settings, or all its checkpoints are damaged.
        """
        run = self.trainer.run
        if config.resume == "never":
            run.workers.on_main(partial(self._set_aside, folder))
            return
        found = run.workers.on_main(partial(checkpoint_to_resume, run.folder, run.settings, config))
        if found is None:
            return
        self.checkpoint, earlier_steps = found
        self.console.print(f"Resuming from {self.checkpoint}")
        if line := changed_length(self.checkpoint, earlier_steps, self.trainer.recipe):
            self.console.print(line, highlight=False)
        self.trainer.resume(self.checkpoint)

    def _set_aside(self, folder: RunFolder) -> None:
        if list_checkpoints(folder.path) or list_checkpoints(self.trainer.run.folder):
            self.console.print(f"The earlier run was set aside as {folder.set_aside()}")

    def time_step(self, trials: int = 2) -> float:
        """Seconds of a step, measured with steps that are undone; see `seconds_per_step`."""
        with self.console.status("Timing a step …"):
            return seconds_per_step(self.trainer, trials)

    def run(self) -> int:
        """Take the steps that are left, then conclude; returns the exit status, 0 or 130 when interrupted.

        Raises:
            TrackingError, TrainingError, CheckpointError: the run cannot go on.
        """
        trainer, run = self.trainer, self.trainer.run
        if trainer.finished:
            self.console.print(
                f"{self.checkpoint} has all {trainer.step} steps; to train longer, raise training.max_steps; "
                "to train again, add --resume never"
            )
        tracker = None
        if run.workers.is_main:
            warn = partial(self.console.print, markup=False, highlight=False)
            tracker = Tracker(run.folder, trainer.step, self.tracking, run.settings, warn)
        try:
            if not trainer.finished and not self._train(tracker):
                self.console.print(f"Stopped and saved at step {trainer.step}; the same command continues from there.")
                return INTERRUPTED
            self.conclude(tracker)
        finally:
            if tracker is not None:
                tracker.close()
        return 0

    def _train(self, tracker: Tracker | None) -> bool:
        trainer = self.trainer
        if tracker is None:
            return trainer.train(on_warning=lambda line: None)
        flops, peak = training_flops_per_token(trainer.model.config), self.peak_flops()
        with training_progress(trainer, flops, peak, self.console) as progress:
            on_step = partial(self.on_step, tracker, progress)
            return trainer.train(on_step, partial(self.on_validation, tracker, progress), progress.print)

    # --- what a kind of training may add; only in the main process, except `conclude` -------------

    def peak_flops(self) -> float:
        """What all devices can do together, in FLOP/s; infinite where a utilisation would mean nothing."""
        return math.inf

    def step_figures(self) -> dict[str, float]:
        """What is recorded of a step besides its loss."""
        return {}

    def on_step(self, tracker: Tracker, progress: TrainingProgress, loss: float) -> None:
        """Called after each step with its loss, in nats."""
        tracker.log(self.trainer.step, train_loss=loss, **self.step_figures())
        progress.step(self.trainer, loss)

    def on_validation(self, tracker: Tracker, progress: TrainingProgress, figures: dict[str, float]) -> None:
        """Called with what was measured on held-out data."""
        tracker.log(self.trainer.step, **figures)
        progress.print(f"step {self.trainer.step:>6}  {in_words(figures)}")

    def conclude(self, tracker: Tracker | None) -> None:
        """Called in every process when all steps were taken; the main one has a tracker."""


def in_words(figures: dict[str, float]) -> str:
    """Figures for people.

    >>> in_words({"validation_loss": 1.5, "preference_accuracy": 0.25})
    'validation loss 1.500  preference accuracy 0.250'
    """
    return "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in figures.items())
