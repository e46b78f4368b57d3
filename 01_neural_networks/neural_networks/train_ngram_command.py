"""`train_ngram.py` as a command: count Kneser–Ney n-gram models of higher and higher order."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from rich.console import Console

from groundwork.command_line import progress_bar
from groundwork.figures import save_curves
from groundwork.user_errors import report_user_errors
from neural_networks.byte_models import byte_stream, measure
from neural_networks.command_line import compressor_rows, corpus_arguments, load, print_ladder, print_sample
from neural_networks.kneser_ney import MAX_ORDER, KneserNeyModel, NGramError


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, and return the exit status."""
    parser = corpus_arguments(
        "An n-gram model predicts a byte from the n - 1 before it by counting what followed them.\n\n"
        "Long contexts say more but occur rarely. Kneser-Ney smoothing asks a shorter context about what\n"
        "the long one does not know. Watch the two curves. On the text that was counted, the model gets\n"
        "better and better. On held-out text, the gain becomes smaller and smaller."
    )
    parser.add_argument("--max-order", type=int, default=MAX_ORDER, help=f"longest n-grams, from 1 to {MAX_ORDER}")
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: run(options, Console()))


def run(options: argparse.Namespace, console: Console) -> int:
    """Count for each order, measure on both parts, draw."""
    if not 1 <= options.max_order <= MAX_ORDER:
        raise NGramError(f"--max-order must be from 1 to {MAX_ORDER}, got {options.max_order}")
    corpus = load(options, console)
    stream = byte_stream(corpus.train)
    orders = range(1, options.max_order + 1)
    held_out, counted = [], []
    with progress_bar(console) as progress:
        task = progress.add_task("Counting", total=len(orders), note="")
        for order in orders:
            start = time.perf_counter()
            model = KneserNeyModel(stream, order)
            seconds = time.perf_counter() - start
            held_out.append(measure(model, corpus.validation))
            counted.append(measure(model, corpus.train))
            progress.update(task, advance=1, note=f"order {order}: {held_out[-1]:.3f} bits per byte")
            progress.console.print(
                f"order {order}   {model.num_grams:>10,} n-grams   {seconds:4.1f} s   "
                f"{counted[-1]:.3f} on its own text   {held_out[-1]:.3f} held out",
                highlight=False,
            )
    references = compressor_rows(corpus)
    names = [f"Kneser-Ney, order {order}" for order in orders]
    print_ladder(console, {"uniform guess": 8.0} | dict(zip(names, held_out, strict=True)) | references)
    print_sample(console, model, options.prompt, options.seed)
    path = save_curves(
        options.output_dir / "ngram.png",
        {"held-out text": (orders, held_out), "the counted text": (orders, counted)},
        references,
        xlabel="order (bytes of context + 1)",
        title=f"Kneser-Ney on {corpus.name}",
    )
    console.print(f"Drawn in {path}", highlight=False)
    return 0
