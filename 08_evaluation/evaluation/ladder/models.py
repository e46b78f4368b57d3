"""The rungs of the ladder that are transformers. Each is one step from the rung before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from evaluation.ladder.text import LadderTier
from evaluation.scaling.small_training import TrainedModel, short_recipe, train_small
from evaluation.sliding_window import score_stream
from neural_networks.corpus import Corpus
from optimization.model_loading import load_for_inference
from optimization.weights.quantized_model import count_weights
from tokenizer.character_tokenizer import CharacterTokenizer
from tokenizer.interface import END_OF_TEXT, Tokenizer
from tokenizer.tokenizer_trainer import train_bpe
from training.optimizers.parameter_groups import OptimizerConfig
from training.optimizers.schedule import ScheduleConfig
from training.placement import Placement
from transformer.config import GPTConfig


@dataclass(frozen=True)
class TransformerRung:
    """A transformer of the ladder; its sizes, steps and batch come from the tier.

    Args:
        name: the name that is printed.
        stage: the stage that teaches it.
        characters: one token for each character instead of BPE.
        parts: parts of the model, as `GPTConfig` names them.
        optimizer: the optimizer it is trained with.
        schedule: the learning-rate schedule it is trained with.
        one_layer: a single block instead of the number in the tier.
    """

    name: str
    stage: int
    characters: bool
    parts: dict[str, Any]
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    one_layer: bool = False


_GPT2 = {"norm": "layernorm", "feed_forward": "gelu", "positions": "learned", "bias": True}
_BEST = {"norm": "rmsnorm", "feed_forward": "relu2", "positions": "rope", "qk_norm": True, "zero_init_residual": True}
_ADAMW, _COSINE = OptimizerConfig(lr=2e-3), ScheduleConfig(kind="cosine", warmup_steps=20)
_MUON = OptimizerConfig(name="muon", lr=8e-3, muon_lr=0.04)
_LINEAR = ScheduleConfig(kind="linear", warmup_steps=20, final_fraction=0.0)
TRANSFORMERS = (
    TransformerRung("one attention layer, characters", 2, True, _GPT2, _ADAMW, _COSINE, one_layer=True),
    TransformerRung("GPT, characters", 3, True, _GPT2, _ADAMW, _COSINE),
    TransformerRung("GPT, BPE", 4, False, _GPT2, _ADAMW, _COSINE),
    TransformerRung("best recipe", 5, False, _BEST, _MUON, _LINEAR),
)


class Tokenizers:
    """The two tokenizers of the ladder, each trained once."""

    def __init__(self, text: Corpus, tier: LadderTier):
        self._text, self._tier = text, tier

    @cached_property
    def characters(self) -> Tokenizer:
        """Knows all characters of the text, so that the held-out part can be measured."""
        return CharacterTokenizer.train((*self._text.train, *self._text.validation), special_tokens=(END_OF_TEXT,))

    @cached_property
    def bpe(self) -> Tokenizer:
        """The BPE tokenizer, trained on the training part."""
        return train_bpe(self._text.train, self._tier.vocab_size)


def measure_transformer(
    rung: TransformerRung,
    text: Corpus,
    tier: LadderTier,
    tokenizers: Tokenizers,
    placement: Placement,
    on_step: Callable[[int, float], None],
) -> tuple[float, TrainedModel, Tokenizer]:
    """Train one rung and measure it.

    Returns:
        Bits per byte, the model with its seconds of training, and its tokenizer.
    """
    tokenizer = tokenizers.characters if rung.characters else tokenizers.bpe
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=tier.context_length,
        num_layers=1 if rung.one_layer else tier.num_layers,
        num_heads=4,
        d_model=tier.d_model,
        **rung.parts,
    )
    recipe = short_recipe(tier.steps, tier.batch_size, rung.optimizer, rung.schedule)
    trained = train_small(config, tokenizer.encode_documents(text.train), tokenizer, recipe, placement, on_step)
    scores = score_stream(trained.model, tokenizer, text.validation, placement)
    return scores.bits_per_byte, trained, tokenizer


def measure_checkpoint(path: str, text: Corpus, placement: Placement) -> tuple[float, int]:
    """Bits per byte and parameters of a checkpoint on the ladder's held-out text."""
    loaded = load_for_inference(path, placement.device)
    scores = score_stream(loaded.model, loaded.tokenizer, text.validation, placement)
    return scores.bits_per_byte, count_weights(loaded.model)
