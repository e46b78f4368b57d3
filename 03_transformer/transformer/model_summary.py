"""What a model costs before it is built: parameters, floating-point operations, memory.

python -m transformer.model_summary --d_model 768 --num_layers 12 --num_heads 12 --vocab_size 50257
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from transformer.config import GPTConfig


@dataclass(frozen=True)
class ParameterCount:
    """Learned numbers by part of the model."""

    embeddings: int
    attention: int
    feed_forward: int
    norms: int
    head: int

    @property
    def total(self) -> int:
        """All of them; a tied head adds none."""
        return self.embeddings + self.attention + self.feed_forward + self.norms + self.head


def count_parameters(config: GPTConfig) -> ParameterCount:
    """Count the parameters of a configuration without building it.

    Raises:
        ValueError: `vocab_size` is not set.
    """
    if config.vocab_size is None:
        raise ValueError("model.vocab_size is not set: without it the embedding has no size")
    d, layers, bias = config.d_model, config.num_layers, int(config.bias)
    kv_width = config.kv_heads * config.head_size
    attention = 2 * d * d + 2 * d * kv_width + bias * (2 * d + 2 * kv_width)
    inner = config.feed_forward_width
    matrices_in = 2 if config.feed_forward == "swiglu" else 1
    feed_forward = (matrices_in + 1) * d * inner + bias * (matrices_in * inner + d)
    per_norm = d * (2 if config.norm == "layernorm" and config.bias else 1)
    position_table = config.context_length * d if config.positions == "learned" else 0
    return ParameterCount(
        embeddings=config.vocab_size * d + position_table,
        attention=layers * attention,
        feed_forward=layers * feed_forward,
        norms=(2 * layers + 1) * per_norm,
        head=0 if config.tie_embeddings else config.vocab_size * d,
    )


def forward_flops_per_token(config: GPTConfig, context: int | None = None) -> int:
    """Floating-point operations of one token's forward pass, a multiply-add counting two.

    Every weight of a matrix is used once (2 operations). Attention adds a score and a weighted sum
    over the visible keys: 4 · d_model for each, on average half the context because of causality.
    Norms, activations, biases and the embedding look-up are left out, as is usual (Chowdhery et al., 2022,
    appendix B).

    Args:
        config: the model.
        context: tokens attended over; the model's context length where it is None.
    """
    counts = count_parameters(dataclasses.replace(config, bias=False))  # a bias is added, not multiplied
    vocab = config.vocab_size or 0
    matrices = counts.attention + counts.feed_forward + vocab * config.d_model
    keys = (context or config.context_length) / 2
    return int(2 * matrices + config.num_layers * 4 * config.d_model * keys)


def training_flops_per_token(config: GPTConfig) -> int:
    """Forward once, backward twice that: gradients of the activations and of the weights."""
    return 3 * forward_flops_per_token(config)


def training_state_bytes(config: GPTConfig) -> int:
    """Bytes of float32 weights, gradients and AdamW's two moments. Activations come on top."""
    return 4 * 4 * count_parameters(config).total


def main() -> None:
    """Print a table for a configuration given on the command line."""
    from jsonargparse import auto_cli
    from rich.console import Console
    from rich.table import Table

    config = auto_cli(GPTConfig)
    counts = count_parameters(config)
    table = Table("part", "parameters", "share", title="GPTModel")
    for part in ("embeddings", "attention", "feed_forward", "norms", "head"):
        count = getattr(counts, part)
        table.add_row(part, f"{count:,}", f"{count / counts.total:.1%}")
    table.add_row("total", f"{counts.total:,}", "100%")
    console = Console()
    console.print(table)
    console.print(f"forward      {forward_flops_per_token(config) / 1e6:,.1f} MFLOP a token")
    console.print(f"training     {training_flops_per_token(config) / 1e6:,.1f} MFLOP a token")
    console.print(f"AdamW state  {training_state_bytes(config) / 2**20:,.0f} MiB in float32, activations aside")


if __name__ == "__main__":
    main()
