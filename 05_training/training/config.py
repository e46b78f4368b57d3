"""The configuration of a training run: typed, documented field by field, checked before any work.

A YAML file gives the values, the command line overrides them (`--optimizer.lr 1e-3`), and what
neither names keeps the default below.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from transformer.config import GPTConfig


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class DataConfig:
    """What to train on.

    Args:
        corpus: python_docs, tiny_shakespeare, or the path of a text file, a JSONL file or a folder.
        validation_fraction: share of the text that is held out.
        dataset_dir: folder for prepared token files, reused by later runs.
    """

    corpus: str = "python_docs"
    validation_fraction: float = 0.05
    dataset_dir: str = "datasets"

    def __post_init__(self) -> None:
        _require(
            0.0 < self.validation_fraction <= 0.5,
            f"data.validation_fraction must be above 0 and at most 0.5, got {self.validation_fraction}",
        )


@dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes ids.

    Args:
        kind: bpe (byte-level, trained on the corpus) or character.
        vocab_size: ids of the bpe vocabulary; a character vocabulary has as many as the text needs.
    """

    kind: Literal["bpe", "character"] = "bpe"
    vocab_size: int | None = 4096

    def __post_init__(self) -> None:
        if self.kind == "character":
            _require(self.vocab_size is None, "tokenizer.vocab_size must be null for a character tokenizer")
        else:
            _require(
                self.vocab_size is not None and self.vocab_size >= 257,
                f"tokenizer.vocab_size must be at least 257 (256 bytes + <|endoftext|>), got {self.vocab_size}",
            )


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights follow gradients.

    Args:
        name: adamw for everything, or muon for the matrices inside the blocks with adamw for the rest.
        lr: peak learning rate of adamw.
        muon_lr: peak learning rate of muon.
        beta1: decay of adamw's mean of gradients.
        beta2: decay of adamw's mean of squared gradients.
        weight_decay: decoupled weight decay, on matrices inside the blocks only.
        grad_clip: largest norm of the gradient, longer ones are scaled down; 0 turns it off.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 3e-3
    muon_lr: float = 0.02
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    grad_clip: float = 1.0

    def __post_init__(self) -> None:
        _require(0.0 < self.lr < 1.0, f"optimizer.lr must be between 0 and 1, got {self.lr}")
        _require(0.0 < self.muon_lr < 1.0, f"optimizer.muon_lr must be between 0 and 1, got {self.muon_lr}")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            _require(0.0 <= value < 1.0, f"optimizer.{name} must be at least 0 and below 1, got {value}")
        _require(self.weight_decay >= 0.0, f"optimizer.weight_decay must not be negative, got {self.weight_decay}")
        _require(self.grad_clip >= 0.0, f"optimizer.grad_clip must not be negative, got {self.grad_clip}")


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate moves over the run.

    Args:
        kind: cosine, linear or constant, after the warm-up.
        warmup_steps: steps in which the rate rises from 0 to its peak.
        final_fraction: the rate at the last step, as a share of the peak.
    """

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 50
    final_fraction: float = 0.1

    def __post_init__(self) -> None:
        _require(self.warmup_steps >= 0, f"schedule.warmup_steps must not be negative, got {self.warmup_steps}")
        _require(
            0.0 <= self.final_fraction <= 1.0,
            f"schedule.final_fraction must be between 0 and 1, got {self.final_fraction}",
        )


@dataclass(frozen=True)
class TrainingConfig:
    """How long to train, and what to do on the way.

    Args:
        max_steps: optimizer steps.
        batch_size: sequences in one forward pass.
        accumulation_steps: forward passes whose gradients are averaged into one step.
        eval_interval: steps between looks at the validation loss.
        eval_tokens: validation tokens for such a look; the last one uses all of them.
        checkpoint_interval: steps between checkpoints; the last step is always saved.
        keep_checkpoints: how many checkpoints stay on disk.
        sample_prompts: texts continued at the end, to see what the model has learned.
    """

    max_steps: int = 1000
    batch_size: int = 8
    accumulation_steps: int = 1
    eval_interval: int = 200
    eval_tokens: int = 16_384
    checkpoint_interval: int = 200
    keep_checkpoints: int = 2
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
            _require(value >= 1, f"training.{name} must be at least 1, got {value}")


@dataclass(frozen=True)
class RunConfig:
    """A training run.

    Args:
        output_dir: folder for checkpoints, metrics and the loss curve.
        seed: of the weights, the order of the data and dropout.
        device: auto takes CUDA, then MPS, then the CPU.
        precision: of matrix products; weights stay float32. auto takes bfloat16 where it is fast.
        resume: auto continues from the newest checkpoint in output_dir, or starts; never starts
            anew, setting an earlier run aside under another name.
        data: what to train on.
        tokenizer: how text becomes ids.
        model: the parts and sizes of the model.
        optimizer: how weights follow gradients.
        schedule: how the learning rate moves.
        training: how long, and what to do on the way.
    """

    output_dir: str = "checkpoints/run"
    seed: int = 1337
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    resume: Literal["auto", "never"] = "auto"
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: GPTConfig = field(default_factory=GPTConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**63, f"seed must be between 0 and 2^63 - 1, got {self.seed}")
        _require(
            self.schedule.warmup_steps < self.training.max_steps or self.schedule.warmup_steps == 0,
            f"schedule.warmup_steps ({self.schedule.warmup_steps}) must be below "
            f"training.max_steps ({self.training.max_steps})",
        )

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step."""
        return self.training.batch_size * self.training.accumulation_steps * self.model.context_length
