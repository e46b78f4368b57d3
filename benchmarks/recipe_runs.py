"""Training runs of a recipe for the benchmarks: no checkpoints, no log, the loss over the whole held-out text."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from training.data.batches import Batch
from training.data.data_loader import WindowLoader
from training.data.data_preparation import prepare_dataset
from training.data.prepared_dataset import PreparedDataset
from training.data.token_files import Tokens
from training.parallel.workers import Workers
from training.placement import choose_placement
from training.run.config import RunConfig
from training.run.plan import with_vocabulary
from training.run.pretraining import build_trainer, open_data
from training.trainer import Run, Trainer
from training.validation import total_loss

Curve = list[dict[str, float]]  # step, seconds of training, loss in nats per token


@dataclass(frozen=True)
class Stage:
    """Some steps of a run with their own batch and context.

    Args:
        steps: how many steps.
        batch_size: sequences in each batch.
        context_length: length of the sequences; it divides the model's context.
    """

    steps: int
    batch_size: int
    context_length: int


class StagedLoader:
    """Batches whose number and length of sequences change during the run. Short sequences are pieces of long ones.

    Args:
        loader: draws sequences of the model's context length.
        stages: the stages in order; the last one never ends.
    """

    def __init__(self, loader: WindowLoader, stages: Sequence[Stage]):
        self.loader, self.stages = loader, stages
        self.step = 0

    def next_batch(self, batch_size: int) -> Batch:
        """The batch of the next step; the stage sets `batch_size`."""
        before, stage = 0, self.stages[0]
        for stage in self.stages:
            before += stage.steps
            if self.step < before:
                break
        self.step += 1
        pieces = self.loader.context_length // stage.context_length
        batch = self.loader.next_batch(stage.batch_size // pieces)
        cut = {name: tensor.reshape(-1, stage.context_length) for name, tensor in batch.tensors.items()}
        return Batch(cut, batch.weight)

    def state_dict(self) -> dict[str, Any]:
        """The positions of the loader and of the stages."""
        return {"step": self.step, "loader": self.loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from saved positions."""
        self.step = state["step"]
        self.loader.load_state_dict(state["loader"])


def open_run(config: RunConfig) -> tuple[RunConfig, PreparedDataset, WindowLoader, Tokens]:
    """The configuration with its vocabulary, the data set, the source of batches, and the held-out text."""
    dataset = prepare_dataset(config.data, config.tokenizer, Console(quiet=True))
    config = with_vocabulary(config, dataset.tokenizer.vocab_size)
    return config, dataset, *open_data(config, dataset, Workers())


def train_recipe(config: RunConfig, seed: int, looks: int = 1, stages: Sequence[Stage] = ()) -> tuple[Curve, float]:
    """Train on a CPU as `train.py` does.

    Args:
        config: configuration of the run.
        seed: seed of the weights and the order of the data.
        looks: how often to measure the loss over the whole held-out text; the last time is at the end.
        stages: stages that are used instead of the configuration's steps, batch and context.

    Returns:
        The measured losses, and the processor seconds of training of all threads together.
    """
    steps = sum(stage.steps for stage in stages) or config.training.max_steps
    training = dataclasses.replace(
        config.training, max_steps=steps, eval_interval=-(-steps // looks), checkpoint_interval=steps
    )
    config, dataset, loader, held_out = open_run(dataclasses.replace(config, seed=seed, training=training))
    placement = choose_placement("cpu", config.precision)
    curve: Curve = []
    looking = 0.0

    def look(trainer: Trainer) -> dict[str, float]:
        nonlocal looking
        start = time.process_time()
        loss = total_loss(trainer.model, held_out, placement) / (len(held_out) - 1)
        looking += time.process_time() - start
        curve.append({"step": trainer.step, "seconds": trainer.seconds, "loss": loss})
        return {"validation_loss": loss}

    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(config, Run(Path(folder), dataset.tokenizer), loader, held_out, placement)
        trainer.validate = look
        if stages:
            trainer.batches = StagedLoader(loader, stages)
        start = time.process_time()
        trainer.train()
        seconds = time.process_time() - start - looking
    with trainer.averaged():
        look(trainer)
    return curve, seconds
