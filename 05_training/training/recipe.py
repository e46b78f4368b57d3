"""How weights are learned: loss, optimizer, schedule, length. The part of a configuration that every kind of
training shares, whatever its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from groundwork.user_errors import require, require_choices


@dataclass(frozen=True)
class LossConfig:
    """What is minimised besides the cross-entropy; validation measures the cross-entropy alone.

    Args:
        label_smoothing: share of each target that is spread over the vocabulary.
        z_loss: weight of the squared log of the softmax's denominator; 1e-4 is customary.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        require(
            0.0 <= self.label_smoothing < 1.0,
            f"loss.label_smoothing must be at least 0 and below 1, got {self.label_smoothing}",
        )
        require(self.z_loss >= 0.0, f"loss.z_loss must not be negative, got {self.z_loss}")


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights follow gradients.

    Args:
        name: adamw for everything, muon for the matrices inside the blocks with adamw for the rest, or sgd.
        lr: peak learning rate of adamw or sgd.
        muon_lr: peak learning rate of muon.
        beta1: decay of adamw's mean of gradients; sgd's momentum.
        beta2: decay of adamw's mean of squared gradients.
        weight_decay: decoupled weight decay, on matrices inside the blocks only.
        grad_clip: largest norm of the gradient, longer ones are scaled down; 0 turns it off.
        fused: take PyTorch's single-kernel adamw where there is one; otherwise the readable one, with the
            same numbers to rounding.
        ema_decay: keep a moving average of the weights with this decay, validate with it and save it as
            the model; null for none.
    """

    name: Literal["adamw", "muon", "sgd"] = "adamw"
    lr: float = 3e-3
    muon_lr: float = 0.02
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    fused: bool = True
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        require_choices(self, "optimizer")
        require(0.0 < self.lr < 1.0, f"optimizer.lr must be between 0 and 1, got {self.lr}")
        require(0.0 < self.muon_lr < 1.0, f"optimizer.muon_lr must be between 0 and 1, got {self.muon_lr}")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            require(0.0 <= value < 1.0, f"optimizer.{name} must be at least 0 and below 1, got {value}")
        require(self.weight_decay >= 0.0, f"optimizer.weight_decay must not be negative, got {self.weight_decay}")
        require(self.grad_clip >= 0.0, f"optimizer.grad_clip must not be negative, got {self.grad_clip}")
        require(
            self.ema_decay is None or 0.0 < self.ema_decay < 1.0,
            f"optimizer.ema_decay must be between 0 and 1, or null, got {self.ema_decay}",
        )


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate moves over the run.

    Args:
        kind: cosine, linear, wsd (stable, then a linear decay), inverse_sqrt or constant, after the warm-up.
        warmup_steps: steps in which the rate rises from 0 to its peak.
        final_fraction: the rate at the last step, as a share of the peak.
        decay_fraction: share of the run in which wsd decays.
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


@dataclass(frozen=True)
class TrainingConfig:
    """How long to train, and what to do on the way.

    Args:
        max_steps: optimizer steps.
        batch_size: sequences in one forward pass of one process.
        accumulation_steps: forward passes whose gradients are averaged into one step.
        gradient_checkpointing: compute each block again in the backward pass instead of keeping what is
            inside; a third more arithmetic for a fraction of the memory.
        compile: have torch.compile fuse the model's operations; for GPUs.
        eval_interval: steps between looks at the validation loss.
        eval_tokens: validation tokens for such a look; the last one uses all of them.
        checkpoint_interval: steps between checkpoints; the last step is always saved.
        keep_checkpoints: how many of the newest checkpoints stay on disk, beside the best.
        max_skipped_steps: how many steps in a row may be skipped for a loss or gradient that is not finite
            before the run stops.
        sample_interval: steps between samples on the way; null for none before the end.
        sample_prompts: texts continued to see what the model has learned.
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
