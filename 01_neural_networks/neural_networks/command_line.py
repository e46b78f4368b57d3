"""What the scripts of this stage share: arguments, one-line errors, the table at the end."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from neural_networks.bits_per_byte import gzip_bits_per_byte, xz_bits_per_byte
from neural_networks.byte_models import ByteModel, sample
from neural_networks.corpora import Corpus, load_corpus


def text_arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the two arguments that choose a text and what is held out of it.

    Args:
        description: what `--help` says first; line breaks are kept.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    parser.add_argument("--corpus", default="python_docs", help="python_docs, tiny_shakespeare, or a file or folder")
    parser.add_argument("--validation_fraction", type=float, default=0.05, help="share of the text that is held out")
    return parser


def corpus_arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the arguments of every script that trains a model.

    Args:
        description: what `--help` says first; line breaks are kept.
    """
    parser = text_arguments(description)
    parser.add_argument("--seed", type=int, default=0, help="one seed, one result, on one machine")
    parser.add_argument("--prompt", default="", help="how the generated sample begins")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs"), help="folder for the plot")
    return parser


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the line breaks of a description, and names each default that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, "") else super()._get_help_string(action)


def report_user_errors(command: Callable[[], int]) -> int:
    """Run a command; a mistake of the user's becomes one line and a status of 1, not a traceback.

    Args:
        command: does the work and returns the exit status.
    """
    try:
        return command()
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        # Every error that this project raises for a user's mistake is a ValueError with one line.
        print(f"error: {error}", file=sys.stderr)
        return 1


def at_least_one(name: str, value: int) -> int:
    """The value, if there can be that many.

    Raises:
        ValueError: it is below 1.
    """
    if value < 1:
        raise ValueError(f"--{name} must be at least 1, got {value}")
    return value


def learning_rate(value: float) -> float:
    """The value, if one can learn at that rate.

    Raises:
        ValueError: it is not a positive number.
    """
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"--lr must be a number above 0, got {value}")
    return value


def load(options: argparse.Namespace, console: Console) -> Corpus:
    """Load the corpus that the options name, and say how large it is."""
    with console.status(f"Reading {options.corpus} …"):
        corpus = load_corpus(options.corpus, options.validation_fraction)
    console.print(
        f"{corpus.name}: {corpus.train_bytes:,} bytes to train on, {corpus.validation_bytes:,} held out",
        highlight=False,
    )
    return corpus


def progress_bar(console: Console) -> Progress:
    """A bar with steps, time gone, time left, and what the task's field `note` says."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def compressor_rows(corpus: Corpus) -> dict[str, float]:
    """Bits per byte of gzip and xz on the held-out text."""
    return {"gzip -9": gzip_bits_per_byte(corpus.validation), "xz -9": xz_bits_per_byte(corpus.validation)}


def print_ladder(console: Console, rows: Mapping[str, float]) -> None:
    """A table of bits per byte, the worst first."""
    table = Table("", "bits per byte", title="Held-out text", title_justify="left")
    table.columns[1].justify = "right"
    for name, bits in sorted(rows.items(), key=lambda row: -row[1]):
        table.add_row(name, f"{bits:.3f}")
    console.print(table)


def print_sample(console: Console, model: ByteModel, prompt: str, seed: int, length: int = 400) -> None:
    """Let a model write a document."""
    drawn = bytes(sample(model, prompt, length, np.random.default_rng(seed)))
    console.rule("A document of its own", align="left")
    console.print(prompt + drawn.decode("utf-8", errors="replace"), markup=False, highlight=False)
    console.rule()
