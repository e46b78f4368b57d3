"""The configuration of a pretraining run: typed, documented field by field, checked before any work.

A YAML file gives the values, the command line overrides them (`--optimizer.lr 1e-3`), and a field that
neither names keeps the default below.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from groundwork.files import expand_home
from groundwork.user_errors import require
from training.data.config import DataConfig, TokenizerConfig
from training.loss import LossConfig
from training.optimizers.parameter_groups import OptimizerConfig
from training.optimizers.schedule import ScheduleConfig
from training.recipe import Recipe, TrainingConfig
from training.run.tracking import TrackingConfig
from transformer.config import GPTConfig


@dataclass(frozen=True)
class RunConfig:
    """A training run.

    Args:
        output_dir: folder for checkpoints, metrics and the loss curve.
        seed: decides the initial weights, the order of the data and dropout.
        device: auto takes CUDA, then MPS, then the CPU.
        precision: number type of matrix products; weights stay float32. auto takes bfloat16 where it is fast.
        parallel: how torchrun's processes share the work. ddp gives each a copy of the model; fsdp gives
            each a piece of every weight, gradient and optimizer state.
        resume: auto continues from the newest checkpoint in output_dir, or starts if there is none. With never,
            the run starts from step 0, and an earlier run is set aside under another name.
        data: what to train on.
        tokenizer: how text becomes ids.
        model: the parts and sizes of the model.
        loss: what is minimised.
        optimizer: how gradients change the weights.
        schedule: how the learning rate moves.
        training: how long to train, and what else to do during the run.
        tracking: what is recorded.
    """

    output_dir: str = "checkpoints/run"
    seed: int = 1337
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    resume: Literal["auto", "never"] = "auto"
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: GPTConfig = field(default_factory=GPTConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        expand_home(self, "output_dir")
        require(bool(self.output_dir), 'output_dir must name a folder, got ""; "." is this folder')
        require(0 <= self.seed < 2**63, f"seed must be between 0 and 2^63 - 1, got {self.seed}")
        _ = self.recipe  # checks that its parts go together
        require(
            self.parallel == "ddp" or self.optimizer.ema_decay is None,
            "optimizer.ema_decay needs parallel: ddp; averages of weights in pieces are not kept",
        )
        require(
            not (self.data.document_masks and self.model.sliding_window),
            "data.document_masks and model.sliding_window cannot be combined: both set the attention mask",
        )

    @property
    def recipe(self) -> Recipe:
        """How weights are learned: the part that the trainer reads."""
        return Recipe(self.optimizer, self.schedule, self.training)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step of one process."""
        return self.training.batch_size * self.training.accumulation_steps * self.model.context_length
