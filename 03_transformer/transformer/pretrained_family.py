"""What has to be known of a Hugging Face class to read and write its models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformer.config import GPTConfig


class PretrainedError(ValueError):
    """A folder that cannot be read, or a model that no family can hold."""


@dataclass(frozen=True)
class Stored:
    """Where a tensor of ours is in the files.

    Args:
        name: of the tensor in the file.
        transposed: the file has (in, out) instead of (out, in).
        third: which third of the (untransposed) rows, for query, key and value in one tensor.
    """

    name: str
    transposed: bool = False
    third: int | None = None


@dataclass(frozen=True)
class Family:
    """One Hugging Face class.

    Args:
        architecture: its name.
        model_type: its name in `config.json`.
        read_config: content of `config.json` → our configuration.
        write_config: our configuration → content of `config.json`.
        obstacles: what in a configuration this family cannot express, in words.
        tensors: our tensor names → where they are stored.
        ignored: ends of names of stored tensors that hold nothing learned.
    """

    architecture: str
    model_type: str
    read_config: Callable[[dict[str, Any]], GPTConfig]
    write_config: Callable[[GPTConfig], dict[str, Any]]
    obstacles: Callable[[GPTConfig], list[str]]
    tensors: Callable[[GPTConfig], dict[str, Stored]]
    ignored: tuple[str, ...] = ()


def require(hf: dict[str, Any], name: str, *allowed: Any) -> None:
    """Check that a setting of `config.json` has one of the values that `GPTModel` computes; the first is the default.

    Raises:
        PretrainedError: it has another.
    """
    value = hf.get(name, allowed[0])
    if value not in allowed:
        raise PretrainedError(f"config.json has {name}: {value!r}; only {' or '.join(map(repr, allowed))} is supported")


def unwanted_parts(config: GPTConfig, wanted: dict[str, tuple[Any, ...]]) -> list[str]:
    """Fields whose value is not one of those wanted."""
    return [
        f"{name} {getattr(config, name)!r}" for name, values in wanted.items() if getattr(config, name) not in values
    ]
