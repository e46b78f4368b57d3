"""A whole pretraining run: prepare the data, plan, build the model, train or resume, measure, report."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from training.checkpoints.resuming import checkpoint_to_resume
from training.data.batches import BatchSource, PrefetchingSource
from training.data.data_loader import WindowLoader
from training.data.data_preparation import PreparedDataset, prepare_dataset
from training.data.token_files import Tokens, open_tokens
from training.parallel.workers import Workers, join_workers
from training.placement import Placement, choose_placement
from training.run.config import RunConfig
from training.run.learning_rate_finder import find_learning_rate
from training.run.peak_flops import peak_flops
from training.run.plan import check_plan, make_plan, print_plan, with_vocabulary
from training.run.profiling import profile_steps
from training.run.progress import training_progress
from training.run.rehearsal import seconds_per_step
from training.run.report import duration, print_samples, report, write_summary
from training.run.tracking import Tracker
from training.trainer import Trainer
from training.validation import next_token_loss, sampled_loss
from transformer.gpt_model import GPTModel
from transformer.model_summary import training_flops_per_token


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
        TrainingError, ValueError: each with one line for the user.
    """
    with join_workers(config.device) as workers:
        if not workers.is_main:
            console = Console(quiet=True)
        return _run(config, console, task or Task(), workers)


def _run(config: RunConfig, console: Console, task: Task, workers: Workers) -> int:
    placement = choose_placement(config.device, config.precision)
    # The main process measures `auto` for all: two precisions in one run would not add up.
    precision = workers.gather(placement.precision)[0]
    placement = dataclasses.replace(placement, precision=precision)
    workers.on_main(lambda: prepare_dataset(config.data, config.tokenizer, console).folder)
    dataset = prepare_dataset(config.data, config.tokenizer, Console(quiet=True))  # finds it
    config = with_vocabulary(config, dataset.tokenizer.vocab_size)
    settings = to_settings(config, dataset, workers)
    plan = make_plan(config, dataset.meta, placement, workers)
    if task.dry_run:
        print_plan(plan, config, dataset.meta, placement, workers, console)
    check_plan(plan, config)
    loader, validation_tokens = open_data(config, dataset, workers)
    checkpoint = None
    if not (task.dry_run or task.find_lr or task.profile):
        run_folder = Path(config.output_dir)
        checkpoint = workers.on_main(lambda: checkpoint_to_resume(run_folder, config.resume, settings, console))

    trainer = build_trainer(config, settings, dataset, loader, validation_tokens, placement, workers)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    if trainer.step >= config.training.max_steps:
        console.print(f"{checkpoint} has all {trainer.step} steps; to train anew, add --resume never")
    else:
        if not task.dry_run:
            print_plan(plan, config, dataset.meta, placement, workers, console)
        with console.status("Timing a step …"):
            seconds = seconds_per_step(trainer)
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

    tracker = Tracker(trainer.run_folder, trainer.step, config.tracking, settings) if workers.is_main else None
    try:
        if trainer.step < config.training.max_steps and not _train(trainer, tracker, console):
            console.print(f"Stopped and saved at step {trainer.step}; the same command continues from there.")
            return 130
        figures = report(trainer, validation_tokens, dataset.meta, tracker, console)
        if tracker is not None:
            samples = {} if trainer.sharded else print_samples(trainer, tracker, console)
            write_summary(trainer, figures, samples)
    finally:
        if tracker is not None:
            tracker.close()
    console.print("\nTry next:", style="bold")
    console.print(
        f"  python 07_optimization/generate.py --checkpoint {config.output_dir}\n"
        f"  python 09_deployment/api/main.py --checkpoint {config.output_dir}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


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
    config: RunConfig,
    settings: dict[str, Any],
    dataset: PreparedDataset,
    loader: WindowLoader,
    validation_tokens: Tokens,
    placement: Placement,
    workers: Workers,
) -> Trainer:
    """A trainer that has taken no step, with a new model; the arguments are those of the run."""
    torch.manual_seed(config.seed)  # the same weights in every process
    model = GPTModel(config.model).to(placement.device)
    if workers.rank:
        torch.manual_seed(config.seed + workers.rank)  # and different dropout
    batches: BatchSource = loader
    if placement.device.type == "cuda":
        batches = PrefetchingSource(loader, config.training.batch_size)
    eval_tokens = config.training.eval_tokens

    def validate(trainer: Trainer) -> dict[str, float]:
        loss = sampled_loss(model, validation_tokens, eval_tokens, placement, trainer.module, workers)
        return {"validation_loss": loss}

    return Trainer(
        model,
        next_token_loss(config.loss),
        batches,
        config.optimizer,
        config.schedule,
        config.training,
        placement,
        Path(config.output_dir),
        dataset.tokenizer,
        settings,
        validate,
        workers,
        config.parallel,
    )


def _train(trainer: Trainer, tracker: Tracker | None, console: Console) -> bool:
    if tracker is None:
        return trainer.train(on_warning=lambda line: None)
    flops = training_flops_per_token(trainer.model.config)
    peak, _ = peak_flops(trainer.placement)
    interval = trainer.training.sample_interval
    with training_progress(trainer, flops, peak * trainer.workers.world_size, console) as progress:

        def on_step(trainer: Trainer, loss: float) -> None:
            rates = {f"lr_{type(o).__name__.lower()}": o.param_groups[0]["lr"] for o in trainer.optimizers}
            tracker.log(trainer.step, train_loss=loss, gradient_norm=trainer.gradient_norm, **rates)
            progress.step(trainer, loss)
            due = interval and trainer.step % interval == 0 and trainer.step < trainer.training.max_steps
            if due and not trainer.sharded:
                print_samples(trainer, tracker, progress.progress.console)

        def on_validation(trainer: Trainer, figures: dict[str, float]) -> None:
            speed = progress.speed(trainer)
            tracker.log(trainer.step, **figures, tokens_per_second=speed, mfu=progress.utilisation(trainer))
            if not trainer.sharded:
                tracker.log_histograms(trainer.model, trainer.step)
            measured = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in figures.items())
            smoothed = progress.smoothed or 0.0
            progress.progress.console.print(f"step {trainer.step:>6}  training loss {smoothed:.3f}  {measured}")

        return trainer.train(on_step, on_validation, progress.progress.console.print)
