"""Steps that are undone: to time them, to try learning rates, to see where their time goes."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator

import torch

from training.trainer import Trainer

SLOW_SECONDS = 5.0  # a plan need not be more exact than that


@contextlib.contextmanager
def rehearsal(trainer: Trainer) -> Iterator[None]:
    """Steps taken inside this context leave no trace: weights, data and randomness are put back at its end."""
    weights = [(p, p.detach().clone()) for p in trainer.model.parameters() if p.requires_grad]
    values, tensors = trainer.state()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    average, trainer.average = trainer.average, None
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, weight in weights:
                parameter.copy_(weight)
        trainer.load_state(values, tensors)
        trainer.average = average


def seconds_per_step(trainer: Trainer, trials: int = 2) -> float:
    """Time steps of one micro-batch, undo them, and multiply by the number of micro-batches in a step.

    Args:
        trainer: about to start.
        trials: how many to time, after one to warm up; the fastest counts. Slow steps end the timing early.
    """
    recipe, times = trainer.recipe, list[float]()
    with rehearsal(trainer):
        trainer.recipe = dataclasses.replace(
            recipe, training=dataclasses.replace(recipe.training, accumulation_steps=1)
        )
        trainer.model.train()
        try:
            while len(times) <= trials and not trainer.workers.any(sum(times) > SLOW_SECONDS):  # all agree
                start = time.perf_counter()
                trainer.take_step()
                times.append(time.perf_counter() - start)
        finally:
            trainer.recipe = recipe
    return min(times[1:] or times) * recipe.training.accumulation_steps
