"""The training loop.

    for each step:  batch → loss → gradients → clip → optimizer → learning rate of the next step

Around it: evaluation now and then, checkpoints, an orderly stop on Ctrl-C or SIGTERM, and a resume
that continues as if nothing had happened.
"""

from __future__ import annotations

import copy
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tokenizer.interface import Tokenizer
from training.checkpoint import CheckpointError, load_state, load_weights, save_checkpoint
from training.config import RunConfig
from training.data_loader import WindowLoader
from training.loss import linear_cross_entropy
from training.optimizer import build_optimizers, set_learning_rate
from training.placement import Placement, capture_rng, restore_rng
from training.schedule import learning_rate_factor
from training.tracking import Tracker
from training.validation import sampled_loss
from transformer.gpt_model import GPTModel


class TrainingError(RuntimeError):
    """Training that cannot go on."""


class Trainer:
    """Trains one model.

    Args:
        config: the run.
        settings: the same configuration in YAML types, as checkpoints keep it.
        model: on its device.
        tokenizer: saved beside the weights.
        train_tokens: (num_tokens,) ids to train on.
        validation_tokens: (num_tokens,) ids held out.
        placement: where and how precisely to compute.
    """

    def __init__(
        self,
        config: RunConfig,
        settings: dict[str, Any],
        model: GPTModel,
        tokenizer: Tokenizer,
        train_tokens: np.ndarray,
        validation_tokens: np.ndarray,
        placement: Placement,
    ):
        self.config, self.settings = config, settings
        self.model, self.tokenizer, self.placement = model, tokenizer, placement
        self.loader = WindowLoader(train_tokens, model.config.context_length, config.seed)
        self.validation_tokens = validation_tokens
        self.optimizers = build_optimizers(model, config.optimizer)
        self.run_folder = Path(config.output_dir)
        self.step = 0
        self.seconds = 0.0  # of training, over all resumes

    # --- one step ----------------------------------------------------------------------------

    def take_step(self) -> float:
        """Take one optimizer step.

        Returns:
            The mean loss of its batches, in nats a token.

        Raises:
            TrainingError: the loss is not a number any more.
        """
        training = self.config.training
        set_learning_rate(self.optimizers, learning_rate_factor(self.step, training.max_steps, self.config.schedule))
        loss = self._accumulate_gradients()
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} at step {self.step + 1}; lower optimizer.lr "
                f"(now {self.config.optimizer.lr:g}) or raise schedule.warmup_steps"
            )
        if self.config.optimizer.grad_clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.grad_clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss

    def _accumulate_gradients(self) -> float:
        """Gradients of the mean over all micro-batches: each is weighted 1 / their number."""
        training = self.config.training
        total = 0.0
        for _ in range(training.accumulation_steps):
            inputs, targets = self.loader.next_batch(training.batch_size)
            inputs, targets = inputs.to(self.placement.device), targets.to(self.placement.device)
            with self.placement.autocast():
                hidden = self.model.hidden_states(inputs)
                loss = linear_cross_entropy(hidden, self.model.head.weight, targets, self.model.config.logit_softcap)
                loss = loss / training.accumulation_steps
            loss.backward()
            total += loss.item()
        return total

    # --- the run -----------------------------------------------------------------------------

    def train(self, tracker: Tracker, on_step: Callable[[int, float], None], on_event: Callable[[str], None]) -> bool:
        """Train to the end, or until asked to stop.

        Args:
            tracker: records the losses.
            on_step: called with (step, loss) after each step.
            on_event: called with a line worth printing.

        Returns:
            True when all steps were taken, False when a signal stopped the run (which is saved).
        """
        training = self.config.training
        self.model.train()
        with _stop_on_signal() as stop_requested:
            while self.step < training.max_steps:
                start = time.perf_counter()
                loss = self.take_step()
                self.seconds += time.perf_counter() - start
                tracker.log(self.step, train_loss=loss)
                on_step(self.step, loss)
                if self.step % training.eval_interval == 0 and self.step < training.max_steps:
                    held_out = sampled_loss(self.model, self.validation_tokens, training.eval_tokens, self.placement)
                    tracker.log(self.step, validation_loss=held_out)
                    on_event(f"step {self.step:>6}  training loss {loss:.3f}  validation loss {held_out:.3f}")
                stopping = stop_requested()
                if stopping or self.step % training.checkpoint_interval == 0 or self.step == training.max_steps:
                    try:
                        self.save()
                    except CheckpointError as error:
                        if stopping or self.step == training.max_steps:
                            raise
                        on_event(f"warning: {error}; training goes on, older checkpoints are intact")
                if stopping:
                    return self.step == training.max_steps
        return True

    # --- checkpoints -------------------------------------------------------------------------

    def save(self) -> Path:
        """Write a checkpoint of this step."""
        tensors = capture_rng(self.placement.device)
        optimizer_scalars = []
        for index, optimizer in enumerate(self.optimizers):
            saved = optimizer.state_dict()
            for parameter, state in saved["state"].items():
                for name, tensor in state.items():
                    tensors[f"optimizer.{index}.{parameter}.{name}"] = torch.as_tensor(tensor)
            optimizer_scalars.append(saved["param_groups"])
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "sequences_drawn": self.loader.drawn,
            "optimizer_groups": optimizer_scalars,
        }
        keep = self.config.training.keep_checkpoints
        return save_checkpoint(
            self.run_folder, self.step, self.model, self.tokenizer, self.settings, state, tensors, keep
        )

    def resume(self, folder: Path) -> None:
        """Continue from a checkpoint of this run: weights, optimizer, data order and randomness.

        Raises:
            CheckpointError: the checkpoint does not fit.
        """
        load_weights(self.model, folder)
        state, tensors = load_state(folder)
        try:
            for index, optimizer in enumerate(self.optimizers):
                moments: dict[int, dict[str, torch.Tensor]] = {}
                prefix = f"optimizer.{index}."
                for key, tensor in tensors.items():
                    if key.startswith(prefix):
                        parameter, name = key[len(prefix) :].split(".")
                        moments.setdefault(int(parameter), {})[name] = tensor
                optimizer.load_state_dict({"state": moments, "param_groups": state["optimizer_groups"][index]})
            self.step, self.seconds = state["step"], state["seconds"]
            self.loader.drawn = state["sequences_drawn"]
            restore_rng(tensors, self.placement.device)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise CheckpointError(f"{folder} is not a checkpoint of this run: {error!r}") from None


@contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """While inside, Ctrl-C and SIGTERM are noted; the loop stops after the step. A second Ctrl-C kills."""
    requested = False

    def note(number: int, frame: object) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True

    previous: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    except ValueError:  # not the main thread (a notebook's, say), where signals cannot be caught
        pass
    try:
        yield lambda: requested
    finally:
        for caught, handler in previous.items():
            signal.signal(caught, handler)


def seconds_per_step(trainer: Trainer, trials: int = 2) -> float:
    """Time whole steps on a copy of the model; the trainer, its data and randomness stay as they are.

    Args:
        trainer: about to start.
        trials: steps to time, after one to warm up; the fastest counts.
    """
    rng = capture_rng(trainer.placement.device)
    rehearsal = Trainer(
        trainer.config,
        trainer.settings,
        copy.deepcopy(trainer.model),
        trainer.tokenizer,
        trainer.loader.tokens,
        trainer.validation_tokens,
        trainer.placement,
    )
    times = []
    for _ in range(trials + 1):
        start = time.perf_counter()
        rehearsal.take_step()
        times.append(time.perf_counter() - start)
    restore_rng(rng, trainer.placement.device)
    return min(times[1:])
