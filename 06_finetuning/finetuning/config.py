"""The configuration of a fine-tuning run: what to start from, what to learn, by which method."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from finetuning.adapters.lora import LoRAConfig
from finetuning.dpo import PreferenceConfig
from finetuning.grpo import GRPOConfig
from groundwork.files import expand_home
from groundwork.user_errors import require
from training.optimizers.parameter_groups import OptimizerConfig
from training.optimizers.schedule import ScheduleConfig
from training.recipe import Recipe, TrainingConfig
from training.run.tracking import TrackingConfig


@dataclass(frozen=True)
class FinetuningDataConfig:
    """What to learn from.

    Args:
        source: python_docs_qa, questions made from the documentation on this machine; or a .json, .jsonl or
            .parquet file of conversations or preferences, or a folder of them.
        held_out_fraction: share that is kept for validation.
        max_examples: the most examples to use, chosen by the seed; null for all.
        pack: put several conversations into one row.
        replay: plain text that is learned as well, so that the model does not forget how to continue it: python_docs,
            tiny_shakespeare, or a file or folder. Its last tenth is left out, for measuring. null for none; for sft.
        replay_share: of all tokens that are learned, the share that is plain text.
    """

    source: str = "python_docs_qa"
    held_out_fraction: float = 0.05
    max_examples: int | None = None
    pack: bool = True
    replay: str | None = None
    replay_share: float = 0.25

    def __post_init__(self) -> None:
        require(bool(self.source), 'data.source must be python_docs_qa, a file or a folder, got ""; "." is this folder')
        require(
            0.0 < self.held_out_fraction <= 0.5,
            f"data.held_out_fraction must be above 0 and at most 0.5, got {self.held_out_fraction}",
        )
        require(
            self.max_examples is None or self.max_examples >= 2,
            f"data.max_examples must be at least 2, or null, got {self.max_examples}",
        )
        require(
            0.0 < self.replay_share < 1.0, f"data.replay_share must be above 0 and below 1, got {self.replay_share}"
        )


@dataclass(frozen=True)
class FinetuningConfig:
    """A fine-tuning run.

    Args:
        output_dir: folder for checkpoints, metrics and the adapter.
        base: what to start from: a run's folder, a checkpoint, a folder of Hugging Face weights, or a name on the hub.
        method: sft imitates answers; dpo and ipo learn from preferences; grpo learns from its own checked answers.
        chat_template: marks around messages. auto takes the template that the base came with, or nullm where there is
            none; `own` insists on the base's; nullm, chatml and llama3 take its place.
        context_length: the most tokens of a conversation and of a row; null for the base model's context, but no more
            than 1,024.
        seed: decides the initial adapters, the order of the data and dropout.
        device: auto takes CUDA, then MPS, then the CPU.
        precision: number type of matrix products. auto takes bfloat16 where it is fast.
        resume: auto continues from the newest checkpoint in output_dir, or starts if there is none. With never,
            the run starts from step 0, and an earlier run is set aside under another name.
        data: what to learn from.
        lora: learn small corrections instead of all weights; null for all weights.
        quantize_base: keep the frozen weights in 4 bits (QLoRA; needs lora and bitsandbytes).
        preference: settings of dpo and ipo.
        grpo: settings of grpo.
        optimizer: how gradients change the weights.
        schedule: how the learning rate moves.
        training: how long to train, and what else to do during the run. `batch_size` counts rows (sft), pairs
            (dpo, ipo) or questions (grpo).
        tracking: what is recorded.
    """

    output_dir: str = "checkpoints/chat"
    base: str = "checkpoints/small_gpt"
    method: Literal["sft", "dpo", "ipo", "grpo"] = "sft"
    chat_template: str = "auto"
    context_length: int | None = None
    seed: int = 1337
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    resume: Literal["auto", "never"] = "auto"
    data: FinetuningDataConfig = field(default_factory=FinetuningDataConfig)
    lora: LoRAConfig | None = None
    quantize_base: bool = False
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=3e-4, weight_decay=0.0))
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig("linear", 20, 0.0))
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(max_steps=300, sample_prompts=()))
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        expand_home(self, "output_dir", "base")
        require(bool(self.output_dir), 'output_dir must name a folder, got ""; "." is this folder')
        require(
            not self.quantize_base or self.lora is not None, "quantize_base needs lora: 4-bit weights cannot be learned"
        )
        require(
            self.data.replay is None or self.method == "sft",
            f"data.replay is for the method sft, and the method is {self.method}",
        )
        _ = self.recipe  # checks that its parts go together

    @property
    def recipe(self) -> Recipe:
        """How weights are learned: the part that the trainer reads."""
        return Recipe(self.optimizer, self.schedule, self.training)
