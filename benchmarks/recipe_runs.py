"""Training runs of a recipe as the benchmarks need them: no checkpoints to keep, no log, a loss over all that is held out."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tokenizer.interface import Tokenizer
from training.batches import Batch
from training.config import RunConfig
from training.data_loader import WindowLoader
from training.data_preparation import prepare_dataset
from training.placement import choose_placement
from training.plan import with_vocabulary
from training.token_files import Tokens, open_tokens
from training.trainer import Trainer
from training.validation import next_token_loss, total_loss
from transformer.gpt_model import GPTModel

Curve = list[dict[str, float]]  # step, seconds of training, loss in nats a token


@dataclass(frozen=True)
class Stage:
    """Some steps of a run with a batch of their own.

    Args:
        steps: how many.
        batch_size: sequences in each.
        context_length: their length, which divides the model's.
    """

    steps: int
    batch_size: int
    context_length: int


class StagedLoader:
    """Batches whose number and length of sequences change on the way; short sequences are pieces of long ones.

    Args:
        loader: draws sequences of the model's context length.
        stages: one after the other; the last goes on for ever.
    """

    def __init__(self, loader: WindowLoader, stages: Sequence[Stage]):
        self.loader, self.stages = loader, stages
        self.step = 0

    def next_batch(self, batch_size: int) -> Batch:
        """The batch of the next step; `batch_size` is the stage's to say."""
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
        """Where both stand."""
        return {"step": self.step, "loader": self.loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from there."""
        self.step = state["step"]
        self.loader.load_state_dict(state["loader"])


@dataclass(frozen=True)
class Texts:
    """What a run reads: ids to train on, and ids that are held out."""

    tokenizer: Tokenizer
    train: Tokens
    held_out: Tokens


def open_texts(config: RunConfig) -> tuple[RunConfig, Texts]:
    """The configuration with its vocabulary, and its texts."""
    dataset = prepare_dataset(config.data, config.tokenizer, Console(quiet=True))
    meta = dataset.meta

    def tokens(split: str) -> Tokens:
        paths = [path for paths in dataset.token_files(split).values() for path in paths]
        return open_tokens(paths, meta.dtype, meta.vocab_size, config.model.context_length)

    return with_vocabulary(config, meta.vocab_size), Texts(dataset.tokenizer, tokens("train"), tokens("val"))


def train_recipe(config: RunConfig, seed: int, looks: int = 1, stages: Sequence[Stage] = ()) -> tuple[Curve, float]:
    """Train on a CPU as `train.py` does.

    Args:
        config: the run.
        seed: of the weights and the order of the data.
        looks: how often to measure the loss over the whole held-out text, the last time at the end.
        stages: in place of the configuration's steps, batch and context.

    Returns:
        What the looks found, and the processor seconds of training, all threads together.
    """
    config, texts = open_texts(config)
    steps = sum(stage.steps for stage in stages) or config.training.max_steps
    training = dataclasses.replace(
        config.training, max_steps=steps, eval_interval=-(-steps // looks), checkpoint_interval=steps
    )
    placement = choose_placement("cpu", config.precision)
    torch.manual_seed(seed)
    model = GPTModel(config.model)
    loader = WindowLoader({"text": texts.train}, config.model.context_length, seed)
    curve: Curve = []
    looking = 0.0

    def look(trainer: Trainer) -> dict[str, float]:
        nonlocal looking
        start = time.process_time()
        loss = total_loss(model, texts.held_out, placement) / (len(texts.held_out) - 1)
        looking += time.process_time() - start
        curve.append({"step": trainer.step, "seconds": trainer.seconds, "loss": loss})
        return {"validation_loss": loss}

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            next_token_loss(config.loss),
            StagedLoader(loader, stages) if stages else loader,
            config.optimizer,
            config.schedule,
            training,
            placement,
            Path(folder),
            texts.tokenizer,
            {},
            look,
        )
        start = time.process_time()
        trainer.train()
        seconds = time.process_time() - start - looking
    with trainer.averaged():
        look(trainer)
    return curve, seconds
