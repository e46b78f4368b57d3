"""What a run will cost, before it starts: parameters, arithmetic, memory, disk, time.

`--dry-run` prints it and stops. A run that cannot fit into memory or onto the disk is refused here, with the
figures, instead of being killed by the system an hour later.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from rich.console import Console
from rich.table import Table

from training.data.prepared_dataset import DatasetMeta
from training.parallel.workers import Workers
from training.placement import Placement
from training.run.config import RunConfig
from transformer.model_memory import Precision, training_memory
from transformer.model_summary import count_parameters, training_flops_per_token

# Tokens per parameter at which a given amount of compute gives the lowest loss (Hoffmann et al., 2022).
COMPUTE_OPTIMAL = 20
# Python with PyTorch, before any model.
BASE_BYTES = 400 * 2**20


class PlanError(ValueError):
    """A run that cannot fit."""


@dataclass(frozen=True)
class Plan:
    """The cost of a run.

    Args:
        parameters: how many numbers are learned.
        tokens: how many to train on, by all processes together.
        epochs: how many times the training text is used.
        flops: arithmetic of the whole run.
        memory_bytes: the most that one process needs.
        disk_bytes: of the checkpoints that are kept, and the one being written.
        free_memory_bytes: what the machine, or the GPU, has for this process.
        free_disk_bytes: what the disk has.
    """

    parameters: int
    tokens: int
    epochs: float
    flops: float
    memory_bytes: int
    disk_bytes: int
    free_memory_bytes: int
    free_disk_bytes: int


def make_plan(config: RunConfig, meta: DatasetMeta, placement: Placement, workers: Workers) -> Plan:
    """Compute the cost of a run; the model must have its vocabulary size already."""
    training = config.training
    parameters = count_parameters(config.model).total
    tokens = training.max_steps * config.tokens_per_step * workers.world_size
    precision: Precision = "float32"
    if placement.precision == torch.bfloat16:
        precision = "bfloat16"
    elif placement.precision == torch.float16:
        precision = "float16"
    memory = training_memory(config.model, parameters, training.batch_size, precision, training.gradient_checkpointing)
    state = memory.total - memory.activations
    if config.parallel == "fsdp":
        state //= workers.world_size
    moments = {"adamw": 2, "muon": 2, "sgd": 1}[config.optimizer.name]
    checkpoint = (1 + moments + 2 * (config.optimizer.ema_decay is not None)) * 4 * parameters
    if placement.device.type == "cuda":
        free_memory = torch.cuda.mem_get_info(placement.device)[0]
    else:
        # Processes of one machine share its memory. torchrun starts all of them here, unless it is told otherwise.
        free_memory = psutil.virtual_memory().available // workers.world_size
    existing = next(
        path
        for path in (Path(config.output_dir).resolve(), *Path(config.output_dir).resolve().parents)
        if path.exists()
    )
    return Plan(
        parameters,
        tokens,
        tokens / meta.train_tokens,
        float(training_flops_per_token(config.model)) * tokens,
        BASE_BYTES + state + memory.activations,
        checkpoint * (training.keep_checkpoints + 2),  # the best, and the one being written
        free_memory,
        shutil.disk_usage(existing).free,
    )


def check_plan(plan: Plan, config: RunConfig) -> None:
    """Refuse what cannot fit.

    Raises:
        PlanError: too little memory or disk, with what would help.
    """
    if plan.memory_bytes > plan.free_memory_bytes:
        help_ = "lower training.batch_size (and raise training.accumulation_steps)"
        if not config.training.gradient_checkpointing:
            help_ += ", or add --training.gradient_checkpointing true"
        raise PlanError(
            f"the run needs about {_gib(plan.memory_bytes)} of memory and {_gib(plan.free_memory_bytes)} are free: {help_}"
        )
    if plan.disk_bytes > plan.free_disk_bytes:
        raise PlanError(
            f"the checkpoints need about {_gib(plan.disk_bytes)} and the disk of {config.output_dir} has "
            f"{_gib(plan.free_disk_bytes)} free: lower training.keep_checkpoints, or choose another --output_dir"
        )


def print_plan(
    plan: Plan, config: RunConfig, meta: DatasetMeta, placement: Placement, workers: Workers, console: Console
) -> None:
    """Print the cost as a table; time is not in it, since it has to be measured."""
    model = config.model
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    processes = "" if workers.world_size == 1 else f", {workers.world_size} processes ({config.parallel})"
    table.add_row("device", placement.describe() + processes)
    table.add_row(
        "model",
        f"{plan.parameters / 1e6:.2f} M parameters: {model.num_layers} layers × {model.d_model} wide, "
        f"{model.num_heads} heads, context {model.context_length}, {model.norm}, {model.feed_forward}, "
        f"{model.positions}",
    )
    table.add_row(
        "data",
        f"{meta.train_tokens:,} training tokens of {meta.vocab_size:,} kinds "
        f"({meta.train_bytes / meta.train_tokens:.2f} bytes each), {meta.validation_tokens:,} held out",
    )
    ratio = plan.tokens / plan.parameters
    tokens = f"{plan.tokens / 1e9:,.2f} B" if plan.tokens >= 1e9 else f"{plan.tokens / 1e6:.2f} M"
    table.add_row(
        "plan",
        f"{config.training.max_steps:,} steps × {config.tokens_per_step * workers.world_size:,} tokens = "
        f"{tokens} tokens ({plan.epochs:,.2f} epochs), {ratio:.2g} tokens a parameter "
        f"(compute-optimal: about {COMPUTE_OPTIMAL})",
    )
    table.add_row("compute", f"{plan.flops:.2e} FLOP, {plan.flops / plan.tokens / 1e6:,.0f} MFLOP a token")
    table.add_row("memory", f"about {_gib(plan.memory_bytes)} of {_gib(plan.free_memory_bytes)} free")
    table.add_row("disk", f"checkpoints up to {_gib(plan.disk_bytes)} of {_gib(plan.free_disk_bytes)} free")
    console.print(table)


def with_vocabulary(config: RunConfig, vocab_size: int) -> RunConfig:
    """The configuration with the model's vocabulary filled in from the tokenizer's.

    Raises:
        ValueError: the model's is smaller.
    """
    wanted = config.model.vocab_size
    if wanted is not None and wanted < vocab_size:
        raise ValueError(
            f"model.vocab_size is {wanted}, but the tokenizer has {vocab_size} ids; "
            "leave it out to take the tokenizer's"
        )
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=wanted or vocab_size))


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
