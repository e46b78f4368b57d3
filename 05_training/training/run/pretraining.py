"""A whole pretraining run: prepare the data, plan, build the model, train or resume, measure, report."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from training.data.batches import BatchSource, PrefetchingSource
from training.data.data_loader import WindowLoader
from training.data.data_preparation import prepare_dataset
from training.data.prepared_dataset import DatasetMeta, PreparedDataset, open_dataset
from training.data.token_files import Tokens, open_tokens
from training.loss import next_token_loss
from training.parallel.workers import Workers, join_workers
from training.placement import Placement, choose_placement
from training.run.config import RunConfig
from training.run.learning_rate_finder import find_learning_rate
from training.run.peak_flops import peak_flops
from training.run.plan import check_plan, make_plan, print_plan, with_vocabulary
from training.run.profiling import profile_steps
from training.run.progress import TrainingProgress
from training.run.report import duration, print_samples, report
from training.run.run_folder import RunFolder
from training.run.session import Session, in_words
from training.run.tracking import Tracker, TrackingConfig
from training.trainer import Run, Trainer
from training.validation import sampled_loss
from transformer.gpt_model import GPTModel


@dataclass(frozen=True)
class Task:
    """What to do instead of training, if anything.

    Args:
        dry_run: prepare the data, print the plan and stop.
        find_lr: try learning rates for some steps, draw the losses and stop.
        profile: write a trace of a few steps and stop.
    """

    dry_run: bool = False
    find_lr: bool = False
    profile: bool = False


def run_training(config: RunConfig, console: Console, task: Task | None = None) -> int:
    """Train as configured; returns the exit status, 0 or 130 when interrupted.

    Raises:
        CorpusError, TokenizerError, DataError, DeviceError, CheckpointError, PlanError, TrackingError,
        TrainingError, InUseError, ValueError: each with one line for the user.
    """
    task = task or Task()
    with join_workers(config.device, config.parallel) as workers:
        if not workers.is_main:
            console = Console(quiet=True)
        folder = RunFolder(config.output_dir, workers)
        with contextlib.nullcontext() if task.dry_run else folder:  # which writes nothing
            return _run(config, console, task, workers, folder)


def _run(config: RunConfig, console: Console, task: Task, workers: Workers, folder: RunFolder) -> int:
    placement = choose_placement(config.device, config.precision)
    # The main process chooses `auto` for all: two precisions in one run would not fit together.
    precision = workers.gather(placement.precision)[0]
    placement = dataclasses.replace(placement, precision=precision)
    dataset = open_dataset(workers.on_main(lambda: prepare_dataset(config.data, config.tokenizer, console).folder))
    config = with_vocabulary(config, dataset.tokenizer.vocab_size)
    plan = make_plan(config, dataset.meta, placement, workers)
    if task.dry_run:
        print_plan(plan, config, dataset.meta, placement, workers, console)
    check_plan(plan, config)
    loader, validation_tokens = open_data(config, dataset, workers)
    run = Run(Path(config.output_dir), dataset.tokenizer, to_settings(config, dataset, workers), workers)
    trainer = build_trainer(config, run, loader, validation_tokens, placement)
    session = PretrainingSession(trainer, console, config.tracking, validation_tokens, dataset.meta)
    if task == Task():  # training only
        session.resume(config, folder)
    if not trainer.finished:
        if not task.dry_run:
            print_plan(plan, config, dataset.meta, placement, workers, console)
        seconds = session.time_step()
        total = seconds * (config.training.max_steps - trainer.step)
        speed = config.tokens_per_step * workers.world_size / seconds
        console.print(f"time     about {duration(total)} at {speed:,.0f} tokens/s", highlight=False)
    if task.dry_run:
        return 0
    if task.find_lr:
        find_learning_rate(trainer, console)
        return 0
    if task.profile:
        profile_steps(trainer, console)
        return 0

    if status := session.run():
        return status
    console.print("\nTry next:", style="bold")
    console.print(
        f"  python 07_optimization/generate.py --checkpoint {config.output_dir}\n"
        f"  python 09_deployment/api/main.py --checkpoint {config.output_dir}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


class PretrainingSession(Session):
    """A session with samples during the run, and a report on all held-out text at the end.

    Args:
        trainer: one that has taken no step yet.
        console: where to print; quiet in every process except the main one.
        tracking: what is recorded.
        validation_tokens: all held-out ids.
        meta: of the data.
    """

    def __init__(
        self,
        trainer: Trainer,
        console: Console,
        tracking: TrackingConfig,
        validation_tokens: Tokens,
        meta: DatasetMeta,
    ):
        super().__init__(trainer, console, tracking)
        self.validation_tokens, self.meta = validation_tokens, meta
        self.whole = not trainer.workers.weights_are_split  # samples and histograms need the weights in one place

    def peak_flops(self) -> float:
        """The figure of one device, times the number of devices."""
        return peak_flops(self.trainer.placement)[0] * self.trainer.workers.world_size

    def step_figures(self) -> dict[str, float]:
        """The length of the gradient, and the learning rate of each optimizer."""
        rates = {f"lr_{type(o).__name__.lower()}": o.param_groups[0]["lr"] for o in self.trainer.optimizers}
        return {"gradient_norm": self.trainer.gradient_norm, **rates}

    def on_step(self, tracker: Tracker, progress: TrainingProgress, loss: float) -> None:
        """Print samples too, every `training.sample_interval` steps."""
        super().on_step(tracker, progress, loss)
        interval, trainer = self.trainer.recipe.training.sample_interval, self.trainer
        if interval and trainer.step % interval == 0 and not trainer.finished and self.whole:
            print_samples(trainer, tracker, self.console)

    def on_validation(self, tracker: Tracker, progress: TrainingProgress, figures: dict[str, float]) -> None:
        """Record speed, utilisation and the distribution of the weights as well."""
        trainer = self.trainer
        speed, utilisation = progress.speed(trainer), progress.utilisation(trainer)
        tracker.log(trainer.step, **figures, tokens_per_second=speed, mfu=utilisation)
        if self.whole:
            tracker.log_histograms(trainer.model, trainer.step)
        progress.print(f"step {trainer.step:>6}  training loss {progress.smoothed:.3f}  {in_words(figures)}")

    def conclude(self, tracker: Tracker | None) -> None:
        """Print the report and samples, and write the summary."""
        figures = report(self.trainer, self.validation_tokens, self.meta, tracker, self.console)
        if tracker is not None:
            samples = print_samples(self.trainer, tracker, self.console) if self.whole else {}
            tracker.write_summary({**figures, "samples": samples})


def to_settings(config: RunConfig, dataset: PreparedDataset, workers: Workers) -> dict[str, Any]:
    """The configuration in YAML types, with what its names stood for when the run began."""
    settings = dataclasses.asdict(config)
    training = config.training
    # How a step is divided into processes and micro-batches may change; how much it holds may not.
    settings["sequences_per_step"] = training.batch_size * training.accumulation_steps * workers.world_size
    # A file may have been edited since.
    settings["prepared"] = {
        "corpus_sha256": dataset.meta.corpus_sha256,
        "tokenizer_sha256": dataset.meta.tokenizer_sha256,
    }
    settings["training"]["sample_prompts"] = list(config.training.sample_prompts)
    return settings


def open_data(config: RunConfig, dataset: PreparedDataset, workers: Workers) -> tuple[WindowLoader, Tokens]:
    """Where batches come from, and all that is held out."""
    meta, context = dataset.meta, config.model.context_length
    corpora = {
        name: open_tokens(paths, meta.dtype, meta.vocab_size, context)
        for name, paths in dataset.token_files("train").items()
    }
    held_out = [path for paths in dataset.token_files("val").values() for path in paths]
    validation_tokens = open_tokens(
        [path for path in held_out if path.stat().st_size], meta.dtype, meta.vocab_size, context
    )
    loader = WindowLoader(
        corpora,
        context,
        config.seed,
        config.data.mixture,
        workers.rank,
        workers.world_size,
        dataset.tokenizer.end_of_text_id if config.data.document_masks else None,
    )
    return loader, validation_tokens


def build_trainer(
    config: RunConfig, run: Run, loader: WindowLoader, validation_tokens: Tokens, placement: Placement
) -> Trainer:
    """A trainer that has taken no step, with a new model."""
    workers = run.workers
    torch.manual_seed(config.seed)  # the same weights in every process
    model = GPTModel(config.model).to(placement.device)
    if workers.rank:
        torch.manual_seed(config.seed + workers.rank)  # and different dropout
    batches: BatchSource = loader
    if placement.device.type == "cuda":
        batches = PrefetchingSource(loader, config.training.batch_size)

    def validate(trainer: Trainer) -> dict[str, float]:
        eval_tokens = config.training.eval_tokens
        loss = sampled_loss(model, validation_tokens, eval_tokens, placement, trainer.module, workers)
        return {"validation_loss": loss}

    return Trainer(
        model,
        next_token_loss(config.loss),
        batches,
        recipe=config.recipe,
        placement=placement,
        run=run,
        validate=validate,
    )
