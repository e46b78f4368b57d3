"""The configuration of a speedrun: the runs, their order, and the questions at the end."""

from __future__ import annotations

from dataclasses import dataclass

from groundwork.files import expand_home
from groundwork.user_errors import require


@dataclass(frozen=True)
class SpeedrunConfig:
    """The way from nothing to a chat model.

    Args:
        output_dir: folder for all results.
        pretrain: configuration of `05_training/train.py`.
        sft: configuration of `06_finetuning/finetune.py`, instruction tuning.
        dpo: configuration of `06_finetuning/finetune.py`, preferences.
        memorised_questions: training questions that are repeated until the model knows them by heart.
        repeats: how often each of them is repeated.
        held_out_questions: number of questions at the end that were not in the training.
        max_symbols: number of symbols whose documentation is asked about; null for all.
        quantize: make int8 weights for the last model.
        seed: seed of the choice of questions.
    """

    output_dir: str = "checkpoints/speedrun"
    pretrain: str = "configs/speedrun/pretrain.yaml"
    sft: str = "configs/speedrun/sft.yaml"
    dpo: str = "configs/speedrun/dpo.yaml"
    memorised_questions: int = 256
    repeats: int = 24
    held_out_questions: int = 256
    max_symbols: int | None = None
    quantize: bool = True
    seed: int = 1337

    def __post_init__(self) -> None:
        expand_home(self, "output_dir", "pretrain", "sft", "dpo")
        for name in ("memorised_questions", "repeats", "held_out_questions"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
