"""What commands share: help that keeps its line breaks, checks of numbers, a progress bar."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the line breaks of a description, and names each default except None and empty text."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, "") else super()._get_help_string(action)


def with_dashes(arguments: Sequence[str] | None = None) -> list[str]:
    """The arguments with `--max_tokens` as `--max-tokens`: both spellings are allowed, as in configurations.

    Args:
        arguments: None for those of the command line.
    """
    given = sys.argv[1:] if arguments is None else arguments
    split = [argument.partition("=") for argument in given]
    return [
        (name.replace("_", "-") if name.startswith("--") else name) + equals + value for name, equals, value in split
    ]


def user_path(text: str) -> Path:
    """A path as a user writes it. In `--output=~/runs`, the shell leaves the `~` as it is."""
    return Path(text).expanduser()


def at_least_one(name: str, value: int) -> int:
    """Return the value if it is at least 1.

    Raises:
        ValueError: it is below 1.
    """
    if value < 1:
        raise ValueError(f"--{name} must be at least 1, got {value}")
    return value


def learning_rate(value: float) -> float:
    """Return the value if it can be a learning rate.

    Raises:
        ValueError: it is not a positive number.
    """
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"--lr must be a number above 0, got {value}")
    return value


def progress_bar(console: Console) -> Progress:
    """A bar with steps, time used, time left, and the text in the task's field `note`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
