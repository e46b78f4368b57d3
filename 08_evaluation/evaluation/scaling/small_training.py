"""Training a small model in memory, for experiments that train many models: the ladder and the scaling laws.

The trainer, optimizers and schedules are those of stage 5. Everything that only a long run needs is left out, such
as checkpoints during the run and resuming.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tokenizer.interface import Tokenizer
from training.data.batches import BatchSource, LossFunction
from training.data.data_loader import WindowLoader
from training.loss import next_token_loss
from training.optimizers.parameter_groups import OptimizerConfig
from training.optimizers.schedule import ScheduleConfig
from training.placement import Placement
from training.recipe import Recipe, TrainingConfig
from training.trainer import Run, Trainer
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel


@dataclass(frozen=True)
class TrainedModel:
    """A trained model with the losses and the time of its training."""

    model: GPTModel
    seconds: float
    losses: list[float]  # nats per token, one for each step


def short_recipe(steps: int, batch_size: int, optimizer: OptimizerConfig, schedule: ScheduleConfig) -> Recipe:
    """A recipe for a short run: the warm-up takes a fifth of it at most."""
    schedule = dataclasses.replace(schedule, warmup_steps=min(schedule.warmup_steps, steps // 5))
    return Recipe(optimizer, schedule, TrainingConfig(max_steps=steps, batch_size=batch_size))


def train_small(
    config: GPTConfig,
    tokens: NDArray[np.uint32],
    tokenizer: Tokenizer,
    recipe: Recipe,
    placement: Placement,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    seed: int = 0,
) -> TrainedModel:
    """Train a model from nothing.

    Args:
        config: with `vocab_size` set.
        tokens: (tokens,) to draw windows from.
        tokenizer: the model's.
        recipe: optimizer, schedule, length.
        placement: where and how precisely.
        on_step: called with the number of steps taken and the last loss.
        seed: of the weights and the order of the data.
    """
    torch.manual_seed(seed)
    model = GPTModel(config).to(placement.device)
    loader = WindowLoader({"text": tokens}, config.context_length, seed)
    return take_steps(model, loader, next_token_loss(), tokenizer, recipe, placement, on_step)


def take_steps(
    model: GPTModel,
    batches: BatchSource,
    loss: LossFunction,
    tokenizer: Tokenizer,
    recipe: Recipe,
    placement: Placement,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> TrainedModel:
    """Train an existing model in place.

    Args:
        model: on the placement's device.
        batches: to learn from.
        loss: of a batch.
        tokenizer: the model's.
        recipe: optimizer, schedule, length.
        placement: where and how precisely.
        on_step: called with the number of steps taken and the last loss.
    """
    model.train()
    losses = []
    with tempfile.TemporaryDirectory() as folder:  # the trainer keeps batches there whose loss is out of line
        run = Run(Path(folder), tokenizer)
        trainer = Trainer(model, loss, batches, recipe=recipe, placement=placement, run=run)
        start = time.perf_counter()
        while not trainer.finished:
            losses.append(trainer.take_step()[0])
            on_step(trainer.step, losses[-1])
        seconds = time.perf_counter() - start
    return TrainedModel(model.eval(), seconds, losses)
