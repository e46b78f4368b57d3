"""What the scripts of this stage share: their arguments, the corpus, the table at the end."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from groundwork.command_line import HelpFormatter, user_path
from neural_networks.bits_per_byte import gzip_bits_per_byte, xz_bits_per_byte
from neural_networks.byte_models import ByteModel, sample
from neural_networks.corpora import load_corpus
from neural_networks.corpus import Corpus


def text_arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the two arguments that choose a text and the part of it that is held out.

    Args:
        description: what `--help` says first; line breaks are kept.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    parser.add_argument("--corpus", default="python_docs", help="python_docs, tiny_shakespeare, or a file or folder")
    parser.add_argument("--validation-fraction", type=float, default=0.05, help="share of the text that is held out")
    return parser


def corpus_arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the arguments of every script that trains a model.

    Args:
        description: what `--help` says first; line breaks are kept.
    """
    parser = text_arguments(description)
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same result on the same machine")
    parser.add_argument("--prompt", default="", help="how the generated sample begins")
    parser.add_argument("--output-dir", type=user_path, default=Path("outputs"), help="folder for the plot")
    return parser


def load(options: argparse.Namespace, console: Console) -> Corpus:
    """Load the corpus that the options name, and say how large it is."""
    with console.status(f"Reading {options.corpus} …"):
        corpus = load_corpus(options.corpus, options.validation_fraction)
    console.print(
        f"{corpus.name}: {corpus.train_bytes:,} bytes to train on, {corpus.validation_bytes:,} held out",
        highlight=False,
    )
    return corpus


def compressor_rows(corpus: Corpus) -> dict[str, float]:
    """Bits per byte of gzip and xz on the held-out text."""
    return {"gzip -9": gzip_bits_per_byte(corpus.validation), "xz -9": xz_bits_per_byte(corpus.validation)}


def print_ladder(console: Console, rows: Mapping[str, float]) -> None:
    """Print a table of bits per byte, with the worst first."""
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
