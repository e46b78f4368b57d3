"""What must be known about a Hugging Face class to read and write its models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformer.config import GPTConfig


class PretrainedError(ValueError):
    """A folder cannot be read, or no family has all parts of a model."""


@dataclass(frozen=True)
class Stored:
    """Where one of our tensors is in the files.

    Args:
        name: name of the tensor in the file.
        transposed: whether the file has (in, out) instead of (out, in).
        third: which third of the rows of an (out, in) tensor that contains query, key and value; None for all rows.
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
        ignored: ends of the names of stored tensors that contain nothing learned.
    """

    architecture: str
    model_type: str
    read_config: Callable[[dict[str, Any]], GPTConfig]
    write_config: Callable[[GPTConfig], dict[str, Any]]
    obstacles: Callable[[GPTConfig], list[str]]
    tensors: Callable[[GPTConfig], dict[str, Stored]]
    ignored: tuple[str, ...] = ()


def require(hf: dict[str, Any], name: str, *allowed: Any) -> None:
    """Check that a setting of `config.json` has a value that `GPTModel` supports; the first one is the default.

    Raises:
        PretrainedError: it has another value.
    """
    value = hf.get(name, allowed[0])
    if value not in allowed:
        raise PretrainedError(f"config.json has {name}: {value!r}; only {' or '.join(map(repr, allowed))} is supported")


def unwanted_parts(config: GPTConfig, wanted: dict[str, tuple[Any, ...]]) -> list[str]:
    """The fields whose value is not one of the wanted ones, each as text with its value."""
    return [
        f"{name} {getattr(config, name)!r}" for name, values in wanted.items() if getattr(config, name) not in values
    ]
