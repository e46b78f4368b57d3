"""Training a small model in memory, for experiments that train many models: the ladder and the scaling laws.

The trainer, optimizers and schedules are those of stage 5. Everything that only a long run needs is left out, such
as checkpoints during the run and resuming.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tokenizer.interface import Tokenizer
from training.data.batches import BatchSource, LossFunction
from training.data.data_loader import WindowLoader
from training.placement import Placement
from training.recipe import OptimizerConfig, ScheduleConfig, TrainingConfig
from training.trainer import Trainer
from training.validation import next_token_loss
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        steps: number of optimizer steps.
        batch_size: windows in each step.
        optimizer: how weights follow gradients.
        schedule: how the learning rate moves.
        seed: seed of the weights and the order of the data.
    """

    steps: int
    batch_size: int
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(kind="linear", final_fraction=0.0))
    seed: int = 0


@dataclass(frozen=True)
class TrainedModel:
    """A trained model with the losses and the time of its training."""

    model: GPTModel
    seconds: float
    losses: list[float]  # nats per token, one for each step


def encode_stream(tokenizer: Tokenizer, documents: tuple[str, ...]) -> NDArray[np.uint32]:
    """Documents as one stream, (tokens,). Each comes after an end-of-text token where there is one."""
    begin = np.array([] if tokenizer.end_of_text_id is None else [tokenizer.end_of_text_id], dtype=np.uint32)
    return np.concatenate([part for text in documents for part in (begin, tokenizer.encode_to_array(text))])


def train_small(
    config: GPTConfig,
    tokens: NDArray[np.uint32],
    tokenizer: Tokenizer,
    recipe: Recipe,
    placement: Placement,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> TrainedModel:
    """Train a model from nothing.

    Args:
        config: the model's configuration, with `vocab_size` set.
        tokens: (tokens,) the stream to draw windows from.
        tokenizer: the model's tokenizer.
        recipe: how to train.
        placement: device and precision.
        on_step: called with the number of steps taken and the last loss.
    """
    torch.manual_seed(recipe.seed)
    model = GPTModel(config).to(placement.device)
    loader = WindowLoader({"text": tokens}, config.context_length, recipe.seed)
    return take_steps(model, loader, next_token_loss(), tokenizer, recipe, placement, on_step)


def take_steps(
    model: GPTModel,
    batches: BatchSource,
    loss_function: LossFunction,
    tokenizer: Tokenizer,
    recipe: Recipe,
    placement: Placement,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> TrainedModel:
    """Train an existing model in place.

    Args:
        model: a model on the placement's device.
        batches: batches to learn from.
        loss_function: gives the loss of a batch.
        tokenizer: the model's tokenizer.
        recipe: how to train.
        placement: device and precision.
        on_step: called with the number of steps taken and the last loss.
    """
    model.train()
    training = TrainingConfig(max_steps=recipe.steps, batch_size=recipe.batch_size)
    losses = []
    with tempfile.TemporaryDirectory() as folder:  # the trainer keeps batches with unusual losses there
        trainer = Trainer(
            model, loss_function, batches, recipe.optimizer, recipe.schedule, training, placement, Path(folder),
            tokenizer, {},
        )  # fmt: skip
        start = time.perf_counter()
        for step in range(1, recipe.steps + 1):
            loss, _ = trainer.take_step()
            losses.append(loss)
            on_step(step, loss)
        seconds = time.perf_counter() - start
    return TrainedModel(model.eval(), seconds, losses)
