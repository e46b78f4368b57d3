"""A whole run: prepare the data, build the model, train or resume, measure, report."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from neural_networks.bits_per_byte import bits_per_byte, perplexity
from training.checkpoint import CheckpointError, find_checkpoint, list_checkpoints
from training.config import RunConfig
from training.data_loader import open_tokens
from training.data_preparation import PreparedDataset, prepare_dataset
from training.placement import Placement, choose_placement
from training.tracking import Tracker
from training.trainer import Trainer, seconds_per_step
from training.validation import total_loss
from transformer.gpt_model import GPTModel
from transformer.model_memory import training_memory
from transformer.model_summary import count_parameters, training_flops_per_token
from transformer.sampling import SamplingParameters, generate

# A resumed run may differ from the saved one in these without being another run.
FREE_TO_CHANGE = {"output_dir", "device", "precision", "resume", "data.dataset_dir"} | {
    f"training.{name}"
    for name in ("eval_interval", "eval_tokens", "checkpoint_interval", "keep_checkpoints", "sample_prompts")
}


def run_training(config: RunConfig, console: Console) -> int:
    """Train as configured; returns the exit status, 0 or 130 when interrupted.

    Raises:
        CorpusError, TokenizerError, DataError, DeviceError, CheckpointError, TrainingError, ValueError:
            each with one line for the user.
    """
    placement = choose_placement(config.device, config.precision)
    dataset = prepare_dataset(config.data, config.tokenizer, console)
    config = _with_vocabulary(config, dataset)
    settings = _to_settings(config, dataset)
    checkpoint = _checkpoint_to_resume(config, settings, console)

    meta = dataset.meta
    arguments = (meta.dtype, meta.vocab_size, config.model.context_length)
    train_tokens = open_tokens(dataset.train_file, *arguments)
    validation_tokens = open_tokens(dataset.validation_file, *arguments)
    torch.manual_seed(config.seed)
    model = GPTModel(config.model).to(placement.device)
    trainer = Trainer(config, settings, model, dataset.tokenizer, train_tokens, validation_tokens, placement)
    if checkpoint is not None:
        trainer.resume(checkpoint)

    finished = trainer.step >= config.training.max_steps
    if finished:
        console.print(f"{checkpoint} has all {trainer.step} steps; to train anew, add --resume never")
    else:
        _print_plan(config, trainer, dataset, placement, console)
    tracker = Tracker(trainer.run_folder, trainer.step)
    try:
        if not finished and not _train_with_progress(trainer, tracker, console):
            console.print(f"Stopped and saved at step {trainer.step}; the same command continues from there.")
            return 130
        _report(trainer, tracker, dataset, console)
    finally:
        tracker.close()
    return 0


def _with_vocabulary(config: RunConfig, dataset: PreparedDataset) -> RunConfig:
    vocab_size = dataset.tokenizer.vocab_size
    wanted = config.model.vocab_size
    if wanted is not None and wanted < vocab_size:
        raise ValueError(
            f"model.vocab_size is {wanted}, but the tokenizer has {vocab_size} ids; "
            "leave it out to take the tokenizer's"
        )
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=wanted or vocab_size))


def _to_settings(config: RunConfig, dataset: PreparedDataset) -> dict[str, Any]:
    settings = dataclasses.asdict(config)
    # What the names above stood for when the run began: a file may have been edited since.
    settings["prepared"] = {
        "corpus_sha256": dataset.meta.corpus_sha256,
        "tokenizer_sha256": dataset.meta.tokenizer_sha256,
    }
    settings["training"]["sample_prompts"] = list(config.training.sample_prompts)
    return settings


# --- resuming ------------------------------------------------------------------------------------


def _checkpoint_to_resume(config: RunConfig, settings: dict[str, Any], console: Console) -> Path | None:
    run_folder = Path(config.output_dir)
    if not list_checkpoints(run_folder):
        return None
    if config.resume == "never":
        aside = next(p for i in range(1, 10_000) if not (p := run_folder.with_name(f"{run_folder.name}.{i}")).exists())
        run_folder.rename(aside)
        console.print(f"The earlier run was set aside as {aside}")
        return None
    checkpoint = find_checkpoint(run_folder)
    changed = _changed_fields(yaml.safe_load((checkpoint / "config.yaml").read_text("utf-8")), settings)
    if changed:
        raise CheckpointError(
            f"{run_folder} holds a run with other settings ({', '.join(changed)}); "
            "add --resume never to train anew, or choose another --output_dir"
        )
    console.print(f"Resuming from {checkpoint}")
    return checkpoint


def _changed_fields(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    before, after = _flatten(old), _flatten(new)
    names = sorted((before.keys() | after.keys()) - FREE_TO_CHANGE)
    return [f"{name}: {before.get(name)} → {after.get(name)}" for name in names if before.get(name) != after.get(name)]


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


# --- what is printed -----------------------------------------------------------------------------


def _print_plan(
    config: RunConfig, trainer: Trainer, dataset: PreparedDataset, placement: Placement, console: Console
) -> None:
    with console.status("Timing a step …"):
        seconds = seconds_per_step(trainer)
    steps_left = config.training.max_steps - trainer.step
    tokens_left = steps_left * config.tokens_per_step
    meta, model = dataset.meta, config.model
    flops = training_flops_per_token(model) * config.tokens_per_step / seconds
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("device", placement.describe())
    table.add_row(
        "model",
        f"{trainer.model.num_parameters() / 1e6:.2f} M parameters: {model.num_layers} layers × {model.d_model} wide, "
        f"{model.num_heads} heads, context {model.context_length}, {model.norm}, {model.feed_forward}, "
        f"{model.positions}",
    )
    table.add_row(
        "data",
        f"{meta.train_tokens:,} training tokens of {meta.vocab_size:,} kinds "
        f"({meta.train_bytes / meta.train_tokens:.2f} bytes each), {meta.validation_tokens:,} held out",
    )
    table.add_row(
        "plan",
        f"{steps_left:,} steps × {config.tokens_per_step:,} tokens = {tokens_left / 1e6:.2f} M tokens "
        f"({tokens_left / meta.train_tokens:.2f} epochs)",
    )
    table.add_row("time", f"about {_minutes(seconds * steps_left)} at {config.tokens_per_step / seconds:,.0f} tokens/s")
    table.add_row(
        "compute", f"{training_flops_per_token(model) / 1e6:,.0f} MFLOP a token, {flops / 1e9:,.0f} GFLOP/s reached"
    )
    need = training_memory(model, count_parameters(model).total, config.training.batch_size)
    table.add_row(
        "memory",
        f"{placement.memory_in_use() / 2**30:.2f} GiB in use; weights, gradients and optimizer state need "
        f"{(need.total - need.activations) / 2**30:.2f} GiB, activations {need.activations / 2**30:.2f} GiB",
    )
    console.print(table)


def _train_with_progress(trainer: Trainer, tracker: Tracker, console: Console) -> bool:
    columns = (
        TextColumn("Training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TextColumn("{task.fields[speed]:,.0f} tokens/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    smoothed: float | None = None
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(
            "train", total=trainer.config.training.max_steps, completed=trainer.step, loss=0.0, speed=0.0
        )

        def on_step(step: int, loss: float) -> None:
            nonlocal smoothed
            smoothed = loss if smoothed is None else 0.95 * smoothed + 0.05 * loss
            speed = step * trainer.config.tokens_per_step / max(trainer.seconds, 1e-9)
            progress.update(task, completed=step, loss=smoothed, speed=speed)

        return trainer.train(tracker, on_step, progress.console.print)


def _report(trainer: Trainer, tracker: Tracker, dataset: PreparedDataset, console: Console) -> None:
    config, meta = trainer.config, dataset.meta
    start = time.perf_counter()
    with console.status("Measuring on the whole validation text …"):
        nats = total_loss(trainer.model, trainer.validation_tokens, trainer.placement)
    loss = nats / (meta.validation_tokens - 1)
    bits = bits_per_byte(nats, meta.validation_bytes)
    if not any("validation_bits_per_byte" in record for record in tracker.records):  # measured again, not anew
        tracker.log(trainer.step, validation_loss=loss, validation_bits_per_byte=bits)
    references = {"xz -9": meta.xz_bits_per_byte, "xz -9 after the training text": meta.xz_with_train_bits_per_byte}
    curve = tracker.draw_curve(meta.validation_bytes / meta.validation_tokens, references)

    speed = trainer.step * config.tokens_per_step / max(trainer.seconds, 1e-9)
    table = Table("validation", "this model", *references, title=f"{config.output_dir} after {trainer.step:,} steps")
    table.add_row("bits per byte", f"[bold]{bits:.3f}[/bold]", *(f"{value:.3f}" for value in references.values()))
    table.add_row("loss (nats a token)", f"{loss:.3f}", "", "")
    table.add_row("perplexity (a token)", f"{perplexity(loss):.2f}", "", "")
    console.print(table)
    console.print(
        f"Trained {_minutes(trainer.seconds)} at {speed:,.0f} tokens/s; "
        f"measured {meta.validation_bytes:,} bytes in {time.perf_counter() - start:.0f} s.",
        highlight=False,
    )
    console.print(f"Curve: {curve}   TensorBoard: tensorboard --logdir {config.output_dir}", highlight=False)
    _print_samples(trainer, tracker, console)
    console.print("\nTry next:", style="bold")
    console.print(
        f"  python 07_optimization/generate.py --checkpoint {config.output_dir}\n"
        f"  python 09_deployment/api/main.py --checkpoint {config.output_dir}",
        highlight=False,
        soft_wrap=True,
    )


def _print_samples(trainer: Trainer, tracker: Tracker, console: Console) -> None:
    trainer.model.eval()
    parameters = SamplingParameters(max_tokens=100, temperature=0.7, seed=trainer.config.seed)
    for prompt in trainer.config.training.sample_prompts:
        ids = trainer.tokenizer.encode(prompt)[: trainer.model.config.context_length]
        with trainer.placement.autocast():
            text = prompt + trainer.tokenizer.decode(generate(trainer.model, ids, parameters))
        text = text.split("<|endoftext|>")[0].rstrip()
        tracker.log_text("sample", text, trainer.step)
        console.rule(f"sample: {prompt!r}", style="dim")
        console.print(text, markup=False, highlight=False)


def _minutes(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "an unknown time"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} minutes"
