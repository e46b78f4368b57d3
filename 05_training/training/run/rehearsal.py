"""Steps that leave no trace: to time them, to try learning rates, to look where their time goes."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator

import torch

from training.placement import capture_rng, restore_rng
from training.trainer import Trainer

SLOW_SECONDS = 5.0  # a plan need not be more exact than that


@contextlib.contextmanager
def rehearsal(trainer: Trainer) -> Iterator[None]:
    """While inside, steps may be taken that leave no trace: weights, data and randomness are put back after."""
    weights = [(p, p.detach().clone()) for p in trainer.model.parameters() if p.requires_grad]
    moments = [
        {parameter: {name: value.clone() for name, value in state.items()} for parameter, state in o.state.items()}
        for o in trainer.optimizers
    ]
    rng, batches = capture_rng(trainer.placement.device), trainer.batches.state_dict()
    monitor, scaler = trainer.monitor.state_dict(), trainer.scaler.state_dict()
    plain = (trainer.step, trainer.tokens_seen, trainer.average)
    trainer.average = None
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, weight in weights:
                parameter.copy_(weight)
        for optimizer, saved in zip(trainer.optimizers, moments, strict=True):
            optimizer.state.clear()
            optimizer.state.update(saved)
        trainer.batches.load_state_dict(batches)
        trainer.monitor.load_state_dict(monitor)
        trainer.scaler.load_state_dict(scaler)
        trainer.step, trainer.tokens_seen, trainer.average = plain
        restore_rng(rng, trainer.placement.device)


def seconds_per_step(trainer: Trainer, trials: int = 2) -> float:
    """Time steps of one micro-batch, without a trace, and reckon with as many as a step has.

    Args:
        trainer: about to start.
        trials: to time, after one to warm up; the fastest counts. A slow one counts at once.
    """
    whole, times = trainer.training, list[float]()
    with rehearsal(trainer):
        trainer.training = dataclasses.replace(whole, accumulation_steps=1)
        trainer.model.train()
        try:
            while len(times) <= trials and not trainer.workers.any(sum(times) > SLOW_SECONDS):  # all alike
                start = time.perf_counter()
                trainer.take_step()
                times.append(time.perf_counter() - start)
        finally:
            trainer.training = whole
    return min(times[1:] or times) * whole.accumulation_steps
