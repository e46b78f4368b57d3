"""Sizes that a file claims, compared with the file of weights and with the machine before anything is allocated.

A configuration is a few numbers, and any of them may be 2⁴⁰. Without this check, a model of that size would be begun:
the process would be killed, or would be busy for hours, before the first missing weight is noticed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from groundwork.machine_memory import in_gib, memory_limit
from transformer.config import GPTConfig
from transformer.model_summary import count_parameters

WEIGHTS_PER_BYTE = 2  # at most: four bits a weight is the least that any format of this project stores


def require_possible_sizes(config: GPTConfig, weight_files: Iterable[Path], bytes_per_weight: int = 4) -> None:
    """Refuse sizes that cannot be right.

    Args:
        config: of the model that is going to be built; its `vocab_size` is set.
        weight_files: the files with the model's weights.
        bytes_per_weight: of the model in memory.

    Raises:
        ValueError: the files are too small for so many weights, or the model or its table of positions is larger than
            the memory.
    """
    weights, stored = count_parameters(config).total, sum(file.stat().st_size for file in weight_files)
    if weights > WEIGHTS_PER_BYTE * stored:
        raise ValueError(
            f"the configuration describes {weights:.4g} weights ({config.num_layers:,} layers, width {config.d_model:,}, "
            f"{config.vocab_size:,} ids); the files of weights have only {stored:,} bytes"
        )
    memory = memory_limit()
    if (needed := weights * bytes_per_weight) > memory:
        raise ValueError(f"the model needs {in_gib(needed)}, and this process may use {in_gib(memory)}")
    if (needed := _position_bytes(config)) > memory:
        raise ValueError(
            f"the table of positions for a context of {config.context_length:,} tokens needs {in_gib(needed)}, and this "
            f"process may use {in_gib(memory)}: use a shorter context"
        )


def _position_bytes(config: GPTConfig) -> int:
    """Bytes of the tables that are computed when a model is built; one that is learned counts among the weights."""
    numbers = {"rope": 2 * config.head_size, "sinusoidal": config.d_model}.get(config.positions, 0)
    return 4 * numbers * config.context_length
