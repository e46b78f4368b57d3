"""A recipe: how weights are learned, for any data. Every kind of training has one."""

from __future__ import annotations

from dataclasses import dataclass, field

from groundwork.user_errors import require
from training.optimizers.parameter_groups import OptimizerConfig
from training.optimizers.schedule import ScheduleConfig


@dataclass(frozen=True)
class TrainingConfig:
    """How long to train, and what else to do during the run.

    Args:
        max_steps: optimizer steps.
        batch_size: sequences in one forward pass of one process.
        accumulation_steps: forward passes whose gradients are averaged into one step.
        gradient_checkpointing: compute each block again in the backward pass instead of keeping what is
            inside. This costs a third more arithmetic and needs a fraction of the memory.
        compile: let torch.compile fuse the model's operations; for GPUs.
        eval_interval: steps between measurements of the validation loss.
        eval_tokens: validation tokens for each such measurement; the last one uses all of them.
        checkpoint_interval: steps between checkpoints; the last step is always saved.
        keep_checkpoints: how many of the newest checkpoints stay on disk, besides the best.
        max_skipped_steps: how many steps in a row may be skipped, for a loss or gradient that is not finite,
            before the run stops.
        sample_interval: steps between samples of generated text; null for samples only at the end.
        sample_prompts: texts that the model continues, to show what it has learned.
    """

    max_steps: int = 1000
    batch_size: int = 8
    accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    compile: bool = False
    eval_interval: int = 200
    eval_tokens: int = 16_384
    checkpoint_interval: int = 200
    keep_checkpoints: int = 2
    max_skipped_steps: int = 5
    sample_interval: int | None = None
    sample_prompts: tuple[str, ...] = ("Return the",)

    def __post_init__(self) -> None:
        for name in (
            "max_steps",
            "batch_size",
            "accumulation_steps",
            "eval_interval",
            "eval_tokens",
            "checkpoint_interval",
            "keep_checkpoints",
        ):
            value = getattr(self, name)
            require(value >= 1, f"training.{name} must be at least 1, got {value}")
        require(
            self.max_skipped_steps >= 0,
            f"training.max_skipped_steps must not be negative, got {self.max_skipped_steps}",
        )
        require(
            self.sample_interval is None or self.sample_interval >= 1,
            f"training.sample_interval must be at least 1, or null, got {self.sample_interval}",
        )


@dataclass(frozen=True)
class Recipe:
    """How weights are learned: the same three parts for pretraining, fine-tuning and every experiment.

    Args:
        optimizer: how gradients change the weights.
        schedule: how the learning rate moves.
        training: how long to train, and what else to do during the run.
    """

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        warmup, steps = self.schedule.warmup_steps, self.training.max_steps
        require(
            warmup < steps or warmup == 0,
            f"schedule.warmup_steps ({warmup}) must be below training.max_steps ({steps})",
        )
