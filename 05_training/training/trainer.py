"""The training loop.

    for each step:  batches → loss → gradients → clip → optimizer → learning rate of the next step

Around it: evaluation at intervals, checkpoints, an orderly stop on Ctrl-C or SIGTERM, and a resume
that continues as if nothing had happened. The caller says what a batch is and what its loss is
(`training.data.batches`), so fine-tuning is this same loop.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenizer.interface import Tokenizer
from training.anomalies import LossMonitor
from training.checkpoints.checkpoint import SHARDS, CheckpointError, finite_numbers, load_weights, read_state
from training.checkpoints.saving import save_checkpoint
from training.checkpoints.sharded_state import load_shards, save_shards
from training.checkpoints.weights import model_weights
from training.data.batches import Batch, BatchSource, LossFunction
from training.optimizers.gradient_clipping import clip_gradients
from training.optimizers.parameter_groups import (
    build_optimizers,
    load_optimizer_state,
    optimizer_state,
    set_learning_rate,
)
from training.optimizers.schedule import learning_rate_factor
from training.optimizers.weight_average import WeightAverage
from training.parallel.distributed import LossModule, parallelise, synchronise
from training.parallel.workers import Workers
from training.placement import Placement, capture_rng, restore_rng
from training.recipe import Recipe
from training.stop_signal import stop_on_signal
from transformer.gpt_model import GPTModel

# Called with the trainer; returns figures that are measured on held-out data, one of them `validation_loss`.
Validate = Callable[["Trainer"], dict[str, float]]

# What a trainer's state is made of: plain numbers, and parts that have a state of their own.
COUNTERS = ("step", "seconds", "tokens_seen")
PARTS = ("batches", "scaler", "monitor")


class TrainingError(ValueError):
    """Training that cannot go on."""


@dataclass(frozen=True)
class Run:
    """The run that a trainer works for: where its files go, what they hold besides weights, who takes part.

    Args:
        folder: for checkpoints, and for batches that should be looked at.
        tokenizer: saved beside the weights.
        settings: the whole configuration in YAML types, saved beside the weights.
        workers: the processes that train together.
    """

    folder: Path
    tokenizer: Tokenizer
    settings: dict[str, Any] = field(default_factory=dict)
    workers: Workers = field(default_factory=Workers)


class Trainer:
    """Trains one model.

    Args:
        model: on its device, the same in every process.
        loss: makes the mean loss of a batch.
        batches: where batches come from.
        recipe: optimizer, schedule, length.
        placement: where and how precisely to compute.
        run: where checkpoints go and what is saved in them.
        validate: measures on held-out data every `training.eval_interval` steps; None for never.
    """

    def __init__(
        self,
        model: GPTModel,
        loss: LossFunction,
        batches: BatchSource,
        *,
        recipe: Recipe,
        placement: Placement,
        run: Run,
        validate: Validate | None = None,
    ):
        self.model, self.batches, self.validate = model, batches, validate
        self.recipe, self.placement, self.run, self.workers = recipe, placement, run, run.workers
        model.checkpoint_blocks = recipe.training.gradient_checkpointing
        if recipe.training.compile:
            for block in model.blocks:
                block.compile()
        self.module = parallelise(LossModule(model, loss), placement, self.workers)
        self.optimizers = build_optimizers(model, recipe.optimizer)
        decay = recipe.optimizer.ema_decay
        self.average = None if decay is None else WeightAverage(model, decay)
        self.scaler = placement.gradient_scaler()
        self.monitor = LossMonitor(run.folder)
        self.step = 0
        self.seconds = 0.0  # of training, over all resumes
        self.tokens_seen = 0.0  # predicted while training, by all processes, over all resumes
        self.gradient_norm = 0.0  # of the last step, before clipping
        self.last_validation: dict[str, float] = {}

    # --- one step ----------------------------------------------------------------------------

    def take_step(self) -> tuple[float, str | None]:
        """Take one optimizer step, or skip it where the loss or a gradient is not finite.

        Returns:
            The mean loss of its batches, in nats a token, and a warning worth printing.

        Raises:
            TrainingError: too many steps in a row were skipped.
        """
        training = self.recipe.training
        set_learning_rate(self.optimizers, learning_rate_factor(self.step, training.max_steps, self.recipe.schedule))
        batches = [self.batches.next_batch(training.batch_size) for _ in range(training.accumulation_steps)]
        loss = self._accumulate_gradients(batches)
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        self.gradient_norm = clip_gradients(self.model.parameters(), self.recipe.optimizer.grad_clip)
        self.step += 1
        warning = None
        if math.isfinite(loss) and math.isfinite(self.gradient_norm):
            for optimizer in self.optimizers:
                optimizer.step()
            if self.average is not None:
                self.average.update()
            if self.monitor.note(loss):
                saved = self.monitor.save_batches("spike", self.step, self.workers.rank, batches)
                usual = f"{self.monitor.mean:.3f} ± {math.sqrt(self.monitor.variance):.3f}"
                warning = f"the loss of step {self.step} is {loss:.3f} where {usual} is usual; {saved}"
        elif not (self.scaler.is_enabled() and math.isfinite(loss)):
            warning = self._skip(loss, batches)
        # With float16 an overflow of the scaled gradients is part of the method: the scale is lowered.
        self.scaler.update()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return loss, warning

    def _accumulate_gradients(self, batches: list[Batch]) -> float:
        """Gradients of the mean over all micro-batches of all processes, each counting by its weight."""
        total_weight = self.workers.sum(sum(batch.weight for batch in batches))[0]
        self.tokens_seen += total_weight
        total = torch.zeros((), device=self.placement.device)
        for index, batch in enumerate(batches):
            batch = batch.to(self.placement.device)
            # Wrappers average gradients over the processes, so each share is multiplied by their number.
            share = batch.weight * self.workers.world_size / max(total_weight, 1e-9)
            with synchronise(self.module, index == len(batches) - 1):
                with self.placement.autocast():
                    loss = self.module(batch.tensors)
                self.scaler.scale(loss * share).backward()
            total += loss.detach() * share
        return self.workers.sum(total.item())[0] / self.workers.world_size

    def _skip(self, loss: float, batches: list[Batch]) -> str:
        self.monitor.note_skipped()
        saved = self.monitor.save_batches("not_finite", self.step, self.workers.rank, batches)
        what = (
            f"the loss became {loss}" if not math.isfinite(loss) else f"the gradient's norm became {self.gradient_norm}"
        )
        if self.monitor.skipped_in_a_row > self.recipe.training.max_skipped_steps:
            raise TrainingError(
                f"{what} at step {self.step}, {self.monitor.skipped_in_a_row} steps in a row; lower optimizer.lr "
                f"(now {self.recipe.optimizer.lr:g}) or raise schedule.warmup_steps; {saved}"
            )
        return f"{what} at step {self.step}: skipped, {self.monitor.skipped} so far; {saved}"

    # --- the run -----------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether all steps were taken."""
        return self.step >= self.recipe.training.max_steps

    def train(
        self,
        on_step: Callable[[float], None] = lambda loss: None,
        on_validation: Callable[[dict[str, float]], None] = lambda figures: None,
        on_warning: Callable[[str], None] = print,
    ) -> bool:
        """Train to the end, or until asked to stop.

        Args:
            on_step: called with the loss after each step.
            on_validation: called with what `validate` measured.
            on_warning: called with a line that the user should see.

        Returns:
            True when all steps were taken, False when a signal stopped the run (which is saved).
        """
        training = self.recipe.training
        self.model.train()
        with stop_on_signal() as stop_requested:
            while not self.finished:
                start = time.perf_counter()
                loss, warning = self.take_step()
                self.seconds += time.perf_counter() - start
                if warning:
                    on_warning(f"warning: {warning}")
                on_step(loss)
                self.last_validation = {}
                if self.validate is not None and self.step % training.eval_interval == 0 and not self.finished:
                    with self.averaged():
                        self.last_validation = self.validate(self)
                    on_validation(self.last_validation)
                stopping = self.workers.any(stop_requested())
                if stopping or self.step % training.checkpoint_interval == 0 or self.finished:
                    try:
                        self.save()
                    except CheckpointError as error:
                        if stopping or self.finished:
                            raise
                        on_warning(f"warning: {error}; training goes on, older checkpoints are intact")
                if stopping:
                    break
        return self.finished

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Inside this context, the model has its averaged weights, if an average is kept."""
        return self.average.applied() if self.average is not None else contextlib.nullcontext()

    # --- the state ---------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What the next steps depend on, besides the weights; every process must call this.

        Returns:
            Values in JSON types, and tensors: what the optimizers remember, which changes with the next step (clone
            what you want to keep), and the states of the random number generators of all processes.
        """
        values = {name: getattr(self, name) for name in COUNTERS}
        values |= {name: getattr(self, name).state_dict() for name in PARTS}
        tensors = optimizer_state(self.model, self.optimizers)
        for own in self.workers.gather(capture_rng(self.placement.device, self.workers.rank)):
            tensors |= own
        return values, tensors

    def load_state(self, values: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Continue from a `state`. The number of processes may have changed, and how they share the model.

        Raises:
            KeyError, ValueError: something is missing, or does not fit the model.
        """
        load_optimizer_state(self.model, self.optimizers, tensors)
        vars(self).update(finite_numbers(values, COUNTERS))
        for name in PARTS:
            getattr(self, name).load_state_dict(values[name])
        restore_rng(tensors, self.placement.device, self.workers.rank)

    def save(self) -> Path:
        """Write a checkpoint of this step; every process must call this.

        Raises:
            CheckpointError: it could not be written.
        """
        weights = model_weights(self.model)
        values, tensors = self.state()
        loss = self.last_validation.get("validation_loss", math.nan)
        values["validation_loss"] = loss if math.isfinite(loss) else None  # says which checkpoint is the best
        if self.average is not None:
            # A user loads the average; training continues from the weights themselves.
            tensors |= {f"raw.{name}": tensor for name, tensor in weights.items()}
            with self.averaged():
                weights = {name: tensor.clone() for name, tensor in model_weights(self.model).items()}
        write_shards = None
        if self.workers.weights_are_split:  # and with them what the optimizers remember
            moments = {name: tensors.pop(name) for name in list(tensors) if name.startswith("optimizer.")}
            write_shards = partial(save_shards, tensors=moments)
        return save_checkpoint(
            self.run.folder,
            self.step,
            weights,
            self.run.tokenizer,
            self.run.settings,
            values,
            tensors,
            keep=self.recipe.training.keep_checkpoints,
            write_shards=write_shards,
            workers=self.workers,
        )

    def resume(self, folder: Path) -> None:
        """Continue from a checkpoint of this run: weights, optimizer, data order and randomness.

        Raises:
            CheckpointError: the checkpoint does not fit.
        """
        load_weights(self.model, folder)
        values, tensors = read_state(folder)
        try:
            if (folder / SHARDS).is_dir():
                tensors |= load_shards(folder, self.model)
            if self.average is not None:
                self.average.load(tensors)
            self.load_state(values, tensors)
        except (KeyError, ValueError, IndexError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{folder} is not a checkpoint of this run: {error!r}") from None
