"""The training loop.

    for each step:  batches → loss → gradients → clip → optimizer → learning rate of the next step

Around it: evaluation now and then, checkpoints, an orderly stop on Ctrl-C or SIGTERM, and a resume
that continues as if nothing had happened. What a batch is and what its loss is are given from outside
(`training.data.batches`), so that fine-tuning is this same loop.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tokenizer.interface import Tokenizer
from training.anomalies import LossMonitor
from training.checkpoints.checkpoint import (
    SHARDS,
    CheckpointError,
    load_state,
    load_weights,
    model_weights,
    save_checkpoint,
)
from training.checkpoints.sharded_state import load_shards, save_shards
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
from training.recipe import OptimizerConfig, ScheduleConfig, TrainingConfig
from training.run.stop_signal import stop_on_signal
from transformer.gpt_model import GPTModel

# Called with the trainer's figures: what is measured on held-out data, `validation_loss` among it.
Validate = Callable[["Trainer"], dict[str, float]]


class TrainingError(ValueError):
    """Training that cannot go on."""


class Trainer:
    """Trains one model.

    Args:
        model: on its device, the same in every process.
        loss_function: makes the mean loss of a batch.
        batches: where batches come from.
        optimizer: how weights follow gradients.
        schedule: how the learning rate moves.
        training: how long, and what to do on the way.
        placement: where and how precisely to compute.
        run_folder: for checkpoints and batches worth a look.
        tokenizer: saved beside the weights.
        settings: the whole configuration in YAML types, as checkpoints keep it.
        validate: measures on held-out data every `training.eval_interval` steps; None for never.
        workers: the processes that train together.
        parallel: how they share the model.
    """

    def __init__(
        self,
        model: GPTModel,
        loss_function: LossFunction,
        batches: BatchSource,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        training: TrainingConfig,
        placement: Placement,
        run_folder: Path,
        tokenizer: Tokenizer,
        settings: dict[str, Any],
        validate: Validate | None = None,
        workers: Workers | None = None,
        parallel: Literal["ddp", "fsdp"] = "ddp",
    ):
        self.model, self.batches, self.placement = model, batches, placement
        self.optimizer_config, self.schedule, self.training = optimizer, schedule, training
        self.run_folder, self.tokenizer, self.settings = run_folder, tokenizer, settings
        self.validate, self.workers = validate, workers or Workers()
        model.checkpoint_blocks = training.gradient_checkpointing
        if training.compile:
            for block in model.blocks:
                block.compile()
        self.module = parallelise(LossModule(model, loss_function), parallel, placement, self.workers)
        self.sharded = parallel == "fsdp" and self.workers.world_size > 1
        self.optimizers = build_optimizers(model, optimizer)
        self.average = WeightAverage(model, optimizer.ema_decay) if optimizer.ema_decay else None
        self.scaler = placement.gradient_scaler()
        self.monitor = LossMonitor(run_folder)
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
        factor = learning_rate_factor(self.step, self.training.max_steps, self.schedule)
        set_learning_rate(self.optimizers, factor)
        count = range(self.training.accumulation_steps)
        batches = [self.batches.next_batch(self.training.batch_size) for _ in count]
        loss = self._accumulate_gradients(batches)
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        self.gradient_norm = clip_gradients(self.model.parameters(), self.optimizer_config.grad_clip)
        self.step += 1
        warning = None
        if math.isfinite(loss) and math.isfinite(self.gradient_norm):
            for optimizer in self.optimizers:
                optimizer.step()
            if self.average is not None:
                self.average.update()
            if self.monitor.note(loss):
                path = self.monitor.save_batches("spike", self.step, self.workers.rank, batches)
                usual = f"{self.monitor.mean:.3f} ± {math.sqrt(self.monitor.variance):.3f}"
                warning = f"the loss of step {self.step} is {loss:.3f} where {usual} is usual; its batch is in {path}"
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
        path = self.monitor.save_batches("not_finite", self.step, self.workers.rank, batches)
        what = (
            f"the loss became {loss}" if not math.isfinite(loss) else f"the gradient's norm became {self.gradient_norm}"
        )
        if self.monitor.skipped_in_a_row > self.training.max_skipped_steps:
            raise TrainingError(
                f"{what} at step {self.step}, {self.monitor.skipped_in_a_row} steps in a row; lower optimizer.lr "
                f"(now {self.optimizer_config.lr:g}) or raise schedule.warmup_steps; the batch is in {path}"
            )
        return f"{what} at step {self.step}: skipped, {self.monitor.skipped} so far; its batch is in {path}"

    # --- the run -----------------------------------------------------------------------------

    def train(
        self,
        on_step: Callable[[Trainer, float], None] = lambda trainer, loss: None,
        on_validation: Callable[[Trainer, dict[str, float]], None] = lambda trainer, figures: None,
        on_warning: Callable[[str], None] = print,
    ) -> bool:
        """Train to the end, or until asked to stop.

        Args:
            on_step: called with the trainer and the loss after each step.
            on_validation: called with the trainer and what `validate` measured.
            on_warning: called with a line that the user should see.

        Returns:
            True when all steps were taken, False when a signal stopped the run (which is saved).
        """
        training = self.training
        self.model.train()
        with stop_on_signal() as stop_requested:
            while self.step < training.max_steps:
                start = time.perf_counter()
                loss, warning = self.take_step()
                self.seconds += time.perf_counter() - start
                if warning:
                    on_warning(f"warning: {warning}")
                on_step(self, loss)
                last = self.step == training.max_steps
                self.last_validation = {}
                if self.validate is not None and (self.step % training.eval_interval == 0 and not last):
                    with self.averaged():
                        self.last_validation = self.validate(self)
                    on_validation(self, self.last_validation)
                stopping = self.workers.any(stop_requested())
                if stopping or self.step % training.checkpoint_interval == 0 or last:
                    try:
                        self.save()
                    except CheckpointError as error:
                        if stopping or last:
                            raise
                        on_warning(f"warning: {error}; training goes on, older checkpoints are intact")
                if stopping:
                    return last
        return True

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """While inside, the model has its averaged weights, if an average is kept."""
        return self.average.applied() if self.average is not None else contextlib.nullcontext()

    # --- checkpoints -------------------------------------------------------------------------

    def save(self) -> Path:
        """Write a checkpoint of this step; every process must call this."""
        weights = model_weights(self.model)
        tensors = self._rng_of_all_ranks()
        if self.average is not None:
            # What a user loads is the average; what training continues from are the weights themselves.
            tensors |= {f"raw.{name}": tensor for name, tensor in weights.items()}
            with self.averaged():
                weights = {name: tensor.clone() for name, tensor in model_weights(self.model).items()}
        moments = optimizer_state(self.model, self.optimizers)
        if not self.sharded:
            tensors |= moments
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "tokens_seen": self.tokens_seen,
            "batches": self.batches.state_dict(),
            "scaler": self.scaler.state_dict(),
            "monitor": self.monitor.state_dict(),
            "validation_loss": self.last_validation.get("validation_loss"),
        }
        return save_checkpoint(
            self.run_folder,
            self.step,
            weights,
            self.tokenizer,
            self.settings,
            state,
            tensors,
            self.training.keep_checkpoints,
            (lambda folder: save_shards(folder, moments)) if self.sharded else None,
            self.workers,
        )

    def resume(self, folder: Path) -> None:
        """Continue from a checkpoint of this run: weights, optimizer, data order and randomness.

        The number of processes may have changed, and how they share the model.

        Raises:
            CheckpointError: the checkpoint does not fit.
        """
        load_weights(self.model, folder)
        state, tensors = load_state(folder)
        try:
            if (folder / SHARDS).is_dir():
                tensors |= load_shards(folder, self.model)
            load_optimizer_state(self.model, self.optimizers, tensors)
            self._load_average(tensors)
            self.step, self.seconds, self.tokens_seen = state["step"], state["seconds"], state["tokens_seen"]
            self.batches.load_state_dict(state["batches"])
            self.scaler.load_state_dict(state["scaler"])
            self.monitor.load_state_dict(state["monitor"])
            self._restore_rng(tensors)
        except (KeyError, ValueError, IndexError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{folder} is not a checkpoint of this run: {error!r}") from None

    def _load_average(self, tensors: dict[str, Tensor]) -> None:
        if self.average is None:
            return
        parameters = self.average.parameters
        with torch.no_grad():
            for name, parameter in parameters.items():
                self.average.averages[name].copy_(parameter)  # the saved model is the average
                parameter.copy_(tensors[f"raw.{name}"])

    def _rng_of_all_ranks(self) -> dict[str, Tensor]:
        states = self.workers.gather(capture_rng(self.placement.device))
        return {f"{name}.{rank}": tensor for rank, own in enumerate(states) for name, tensor in own.items()}

    def _restore_rng(self, tensors: dict[str, Tensor]) -> None:
        suffix = f".{self.workers.rank}"
        own = {
            name.removesuffix(suffix): t
            for name, t in tensors.items()
            if name.startswith("rng.") and name.endswith(suffix)
        }
        if "rng.cpu" in own:  # a process that was not there when the checkpoint was made keeps its fresh state
            restore_rng(own, self.placement.device)
