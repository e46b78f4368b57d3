"""`baselines.py` as a command: how well compressors and counting models do on a corpus."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console

from groundwork.user_errors import report_user_errors
from neural_networks.bits_per_byte import xz_bits_per_byte
from neural_networks.byte_models import ByteModel, byte_stream, measure
from neural_networks.command_line import compressor_rows, load, print_ladder, text_arguments
from neural_networks.kneser_ney import MAX_ORDER, KneserNeyModel
from neural_networks.ngram import BigramModel, UnigramModel


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, and return the exit status."""
    options = text_arguments(
        "How well compressors and counting models do on a corpus: the figures that a neural network has to beat."
    ).parse_args(arguments)
    return report_user_errors(lambda: run(options, Console()))


def run(options: argparse.Namespace, console: Console) -> int:
    """Measure all of them and print the table."""
    corpus = load(options, console)
    with console.status("Compressing and counting …"):
        stream = byte_stream(corpus.train)
        models: dict[str, ByteModel] = {
            "unigram": UnigramModel(stream),
            "bigram": BigramModel(stream),
            "Kneser-Ney, order 5": KneserNeyModel(stream, 5),
            f"Kneser-Ney, order {MAX_ORDER}": KneserNeyModel(stream, MAX_ORDER),
        }
        rows = {"uniform guess": 8.0} | {name: measure(model, corpus.validation) for name, model in models.items()}
        rows |= compressor_rows(corpus)
        rows["xz -9 after the training text"] = xz_bits_per_byte(corpus.validation, corpus.train)
    print_ladder(console, rows)
    return 0
