"""What a model costs before it is built: parameters, floating-point operations, memory.

python -m transformer.model_summary --preset gpt2_124m
python -m transformer.model_summary --config configs/small_gpt.yaml
python -m transformer.model_summary --num_layers 12 --d_model 512 --num_heads 8 --vocab_size 32000
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundwork.command_line import user_path
from groundwork.files import read_yaml
from transformer.config import GPTConfig
from transformer.feed_forward import GATED
from transformer.model_memory import Precision, inference_memory, training_memory
from transformer.presets import PRESETS, preset


@dataclass(frozen=True)
class ParameterCount:
    """How many numbers are learned in each part of the model."""

    embeddings: int
    attention: int
    feed_forward: int
    norms: int
    head: int

    @property
    def total(self) -> int:
        """The sum of all parts; a tied head adds none."""
        return self.embeddings + self.attention + self.feed_forward + self.norms + self.head


def count_parameters(config: GPTConfig) -> ParameterCount:
    """Count the parameters of a configuration without building it.

    Raises:
        ValueError: `vocab_size` is not set.
    """
    if config.vocab_size is None:
        raise ValueError("model.vocab_size is not set: without it the embedding has no size")
    d, layers, bias = config.d_model, config.num_layers, int(config.bias)
    width, kv_width = config.num_heads * config.head_size, config.kv_heads * config.head_size
    attention = 2 * d * width + 2 * d * kv_width
    attention += {"none": 0, "qkv": width + 2 * kv_width, "all": width + 2 * kv_width + d}[config.biased_projections]
    inner = config.feed_forward_width
    matrices_in = 2 if config.feed_forward in GATED else 1
    feed_forward = (matrices_in + 1) * d * inner + bias * (matrices_in * inner + d)
    per_norm = d * (2 if config.norm == "layernorm" and config.bias else 1)
    normed = width + kv_width if config.qk_norm_across_heads else 2 * config.head_size
    norms_a_block = 4 if config.norm_position == "both" else 2
    block_norms = layers * (norms_a_block * per_norm + (normed if config.qk_norm_weight else 0))
    position_table = config.context_length * d if config.positions == "learned" else 0
    return ParameterCount(
        embeddings=config.vocab_size * d + position_table,
        attention=layers * attention,
        feed_forward=layers * feed_forward,
        norms=block_norms + (per_norm if config.norm_position != "post" else 0),
        head=0 if config.tie_embeddings else config.vocab_size * d,
    )


def forward_flops_per_token(config: GPTConfig, context: int | None = None) -> int:
    """Floating-point operations of one token's forward pass; a multiply-add counts as two.

    Every weight of a matrix is used once (2 operations). Attention adds a score and a weighted sum over
    the visible keys: 4 · heads · head_dim for each key. Because of causality, half the context is visible
    on average. Norms, activations, biases and the embedding look-up are not counted, as is usual
    (Chowdhery et al., 2022, appendix B).

    Args:
        config: the model.
        context: how many tokens the text has; None for the model's context length.

    Raises:
        ValueError: the context is below one token.
    """
    # A bias is added, not multiplied.
    counts = count_parameters(dataclasses.replace(config, bias=False, attention_bias=None))
    vocab = config.vocab_size or 0
    matrices = counts.attention + counts.feed_forward + vocab * config.d_model
    time = config.context_length if context is None else context
    if time < 1:
        raise ValueError(f"the context must be at least 1 token, got {time}")
    keys = 0.0
    for layer in range(config.num_layers):
        window = min(time, (config.window_of(layer) or time) + config.attention_sinks)
        keys += window - window**2 / (2 * time)  # the mean of min(position, window) over the positions
    return int(2 * matrices + 4 * config.num_heads * config.head_size * keys)


def training_flops_per_token(config: GPTConfig) -> int:
    """The forward pass, and twice as much for the backward pass: gradients of the activations and of the weights."""
    return 3 * forward_flops_per_token(config)


def print_summary(config: GPTConfig, batch_size: int) -> None:
    """Print the tables of a configuration.

    Args:
        config: a configuration in which `vocab_size` is set.
        batch_size: how many sequences, for the memory.
    """
    from rich.console import Console
    from rich.table import Table

    counts = count_parameters(config)
    parameters = Table("part", "parameters", "share", title="Parameters")
    for part in ("embeddings", "attention", "feed_forward", "norms", "head"):
        count = getattr(counts, part)
        parameters.add_row(part, f"{count:,}", f"{count / counts.total:.1%}")
    parameters.add_row("total", f"{counts.total:,}", "100%")

    training = Table(
        "precision", "weights", "gradients", "AdamW", "activations", "total", "recomputing",
        title=f"Training memory in MiB, batch {batch_size} × {config.context_length} tokens",
    )  # fmt: skip
    inference = Table(
        "precision", "weights", "keys and values", "total", "limit at 100 GB/s",
        title=f"Inference memory in MiB, {batch_size} × {config.context_length} tokens",
    )  # fmt: skip
    computed: tuple[Precision, ...] = ("float32", "bfloat16")
    for precision in computed:
        need = training_memory(config, counts.total, batch_size, precision)
        checkpointed = training_memory(config, counts.total, batch_size, precision, checkpoint_blocks=True)
        training.add_row(
            precision,
            *(_mib(x) for x in (need.weights, need.gradients, need.optimizer, need.activations, need.total)),
            _mib(checkpointed.total),
        )
    kept: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
    for precision in kept:
        held = inference_memory(config, counts.total, batch_size, precision)
        # Each token of a single stream reads every weight once: bandwidth is the limit.
        speed = f"{100e9 / held.weights:,.0f} tokens/s"
        inference.add_row(precision, _mib(held.weights), _mib(held.cache), _mib(held.total), speed)

    console = Console()
    for table in (parameters, training, inference):
        for column in table.columns[1:]:
            column.justify = "right"
        console.print(table)
    forward, step = forward_flops_per_token(config), training_flops_per_token(config)
    console.print(f"forward   {forward / 1e6:,.1f} MFLOP a token at full context", highlight=False)
    console.print(f"training  {step / 1e6:,.1f} MFLOP a token", highlight=False)


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables of a configuration given on the command line.

    Returns:
        The exit status.
    """
    from jsonargparse import ArgumentParser

    # The values of a preset or file become the defaults of the options, so that options override them.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    first.add_argument("--config", type=user_path)
    chosen, rest = first.parse_known_args(arguments)
    parser = ArgumentParser(
        prog="python -m transformer.model_summary",
        description="Parameters, operations and memory of a model, before it is built.",
    )
    parser.add_argument("--preset", choices=tuple(PRESETS), help="begin with this model")
    parser.add_argument("--config", help="begin with the `model` section of this YAML file")
    parser.add_argument("--batch-size", type=int, default=8, help="sequences, for the memory")
    parser.add_class_arguments(GPTConfig)
    try:
        base: dict[str, Any] = {}
        if chosen.preset:
            base = preset(chosen.preset).to_dict()
        if chosen.config:
            base.update(_model_section(chosen.config))
        parser.set_defaults(base)
        values = parser.instantiate(parser.parse_args(rest)).as_dict()
        if values["vocab_size"] is None:
            raise ValueError("which model? Give --preset, --config or --vocab_size; see --help")
        batch_size = values.pop("batch_size")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        del values["preset"], values["config"]
        print_summary(GPTConfig(**values), batch_size)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _model_section(path: Path) -> dict[str, Any]:
    """The `model` section of a configuration file. If it has no vocabulary size, that of the tokenizer is used."""
    content = read_yaml(path)
    if not isinstance(content.get("model"), dict):
        raise ValueError(f"{path} has no `model` section")
    section = dict(content["model"])
    if section.get("vocab_size") is None and isinstance(content.get("tokenizer"), dict):
        section["vocab_size"] = content["tokenizer"].get("vocab_size")
    return section


if __name__ == "__main__":
    raise SystemExit(main())
