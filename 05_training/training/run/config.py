"""The configuration of a pretraining run: typed, documented field by field, checked before any work.

A YAML file gives the values, the command line overrides them (`--optimizer.lr 1e-3`), and what
neither names keeps the default below.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from groundwork.user_errors import require
from training.loss import LossConfig
from training.optimizers.parameter_groups import OptimizerConfig
from training.optimizers.schedule import ScheduleConfig
from training.recipe import Recipe, TrainingConfig
from transformer.config import GPTConfig


@dataclass(frozen=True)
class DataConfig:
    """What to train on.

    Args:
        corpus: python_docs, tiny_shakespeare, or the path of a text file, a JSONL file or a folder. With
            stream, also a Parquet file, a folder of them, or hub:NAME for a data set of the Hugging Face hub.
        mixture: several corpora and how often to draw from each, as {corpus: weight}, instead of one corpus.
        stream: read one document after another and write token files in shards, for text larger than memory.
        stream_documents: the most documents to take from a stream; null for all.
        validation_fraction: share of the text that is held out.
        dataset_dir: folder for prepared token files, reused by later runs.
        document_masks: keep attention within a document where a window holds several.
    """

    corpus: str = "python_docs"
    mixture: dict[str, float] | None = None
    stream: bool = False
    stream_documents: int | None = None
    validation_fraction: float = 0.05
    dataset_dir: str = "datasets"
    document_masks: bool = False

    def __post_init__(self) -> None:
        require(
            0.0 < self.validation_fraction <= 0.5,
            f"data.validation_fraction must be above 0 and at most 0.5, got {self.validation_fraction}",
        )
        require(
            self.stream_documents is None or self.stream_documents >= 2,
            f"data.stream_documents must be at least 2, one to train on and one held out, got {self.stream_documents}",
        )
        if self.mixture is not None:
            require(len(self.mixture) > 0, "data.mixture must name at least one corpus, as {corpus: weight}")
            for name, weight in self.mixture.items():
                require(weight > 0, f"data.mixture: the weight of {name} must be above 0, got {weight}")

    @property
    def weights(self) -> dict[str, float]:
        """Corpora by name with their weights; one corpus has the weight 1."""
        return self.mixture or {self.corpus: 1.0}


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
            require(self.vocab_size is None, "tokenizer.vocab_size must be null for a character tokenizer")
        else:
            require(
                self.vocab_size is not None and self.vocab_size >= 257,
                f"tokenizer.vocab_size must be at least 257 (256 bytes + <|endoftext|>), got {self.vocab_size}",
            )


@dataclass(frozen=True)
class TrackingConfig:
    """What is recorded besides metrics.jsonl and the loss curve.

    Args:
        tensorboard: write TensorBoard events: curves, histograms of weights, samples, the configuration.
        wandb_project: also send curves to Weights & Biases under this project; needs `pip install wandb`.
    """

    tensorboard: bool = True
    wandb_project: str | None = None


@dataclass(frozen=True)
class RunConfig:
    """A training run.

    Args:
        output_dir: folder for checkpoints, metrics and the loss curve.
        seed: of the weights, the order of the data and dropout.
        device: auto takes CUDA, then MPS, then the CPU.
        precision: of matrix products; weights stay float32. auto takes bfloat16 where it is fast.
        parallel: how torchrun's processes share the work. ddp gives each a copy of the model; fsdp gives
            each a piece of every weight, gradient and optimizer state.
        resume: auto continues from the newest checkpoint in output_dir, or starts; never starts
            from step 0 and sets an earlier run aside under another name.
        data: what to train on.
        tokenizer: how text becomes ids.
        model: the parts and sizes of the model.
        loss: what is minimised.
        optimizer: how weights follow gradients.
        schedule: how the learning rate moves.
        training: how long, and what to do on the way.
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
