"""`compare_vocabularies.py` as a command: bytes per token by vocabulary size, as a table and a plot."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from groundwork.command_line import HelpFormatter, user_path
from groundwork.user_errors import report_user_errors
from neural_networks.corpora import load_corpus
from tokenizer.pre_token_counts import count_pre_tokens
from tokenizer.vocab_builder import compression_by_size, plot_compression


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, and return the exit status."""
    parser = argparse.ArgumentParser(description="Bytes per token by vocabulary size.", formatter_class=HelpFormatter)
    parser.add_argument("--input", default="python_docs", help="python_docs, tiny_shakespeare, a file or a folder")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2**power for power in range(8, 17)])
    parser.add_argument("--plot", type=user_path, default=Path("workspace/tokenizers/compression.png"))
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: compare(options, Console(highlight=False)))


def compare(options: argparse.Namespace, console: Console) -> None:
    """Train once, measure every size, draw."""
    corpus = load_corpus(options.input, 0.05)
    with console.status("Counting and learning merges …"):
        counts = count_pre_tokens(corpus.train)
        points = compression_by_size(counts, corpus.validation, options.sizes)
    table = Table("vocabulary", "bytes per token, training text", "held-out text", "unigram bits per byte")
    for column in table.columns:
        column.justify = "right"
    for point in points:
        table.add_row(
            f"{point.vocab_size:,}", f"{point.train:.3f}", f"{point.held_out:.3f}", f"{point.unigram_bits_per_byte:.3f}"
        )
    console.print(table)
    if len(points) < len(options.sizes):
        console.print("[yellow]The text has too few pairs for the larger sizes.[/]")
    plot_compression(points, options.plot)
    console.print(f"→ {options.plot}")
