"""`train_bigram.py` as a command: make the bigram model twice, by counting and by gradient descent."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from groundwork.command_line import at_least_one, learning_rate, progress_bar
from groundwork.figures import Curve, draw_curves, save_figure
from groundwork.user_errors import report_user_errors
from neural_networks.broadcasting import Array
from neural_networks.byte_models import byte_stream, measure
from neural_networks.command_line import compressor_rows, corpus_arguments, load, print_ladder, print_sample
from neural_networks.neural_bigram import NeuralBigram
from neural_networks.ngram import BigramModel, UnigramModel
from neural_networks.optimizers import Adam


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, and return the exit status."""
    parser = corpus_arguments(
        "A bigram gives the next byte a probability by looking at the one before it.\n\n"
        "Counted: how often did each byte follow each byte?\n"
        "Learned: a table of scores, softmax, cross-entropy, and gradient descent on random pairs.\n"
        "The descent finds what counting gives at once. For deeper networks it is the only way."
    )
    parser.add_argument("--steps", type=int, default=3000, help="steps of gradient descent")
    parser.add_argument("--batch-size", type=int, default=2048, help="pairs of bytes in each step")
    parser.add_argument("--lr", type=float, default=0.1, help="Adam's first learning rate; it falls to 0")
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: run(options, Console()))


def run(options: argparse.Namespace, console: Console) -> int:
    """Count, learn, compare, draw."""
    steps, batch_size = at_least_one("steps", options.steps), at_least_one("batch_size", options.batch_size)
    lr = learning_rate(options.lr)
    corpus = load(options, console)
    stream = byte_stream(corpus.train)
    unigram, counted, learned = UnigramModel(stream), BigramModel(stream), NeuralBigram()
    optimizer, rng = Adam([learned.scores.data], lr), np.random.default_rng(options.seed)
    seen: list[float] = []
    with progress_bar(console) as progress:
        task = progress.add_task("Learning", total=steps, note="")
        for step in range(steps):
            optimizer.lr = lr * (1 - step / steps)
            places = rng.integers(0, len(stream) - 1, batch_size)
            learned.scores.grad = None
            loss = learned.loss(stream[places], stream[places + 1])
            loss.backward()
            assert learned.scores.grad is not None
            optimizer.step([learned.scores.grad])
            seen.append(loss.item() / math.log(2))
            progress.update(task, advance=1, note=f"{seen[-1]:.2f} bits")
    rows = {
        "uniform guess": 8.0,
        "unigram, counted": measure(unigram, corpus.validation),
        "bigram, counted": measure(counted, corpus.validation),
        "bigram, learned": measure(learned, corpus.validation),
    }
    print_ladder(console, rows | compressor_rows(corpus))
    shares = np.bincount(stream, minlength=256) / len(stream)
    apart = shares @ np.abs(learned.probabilities - counted.probabilities).sum(axis=1) / 2
    console.print(
        f"Learned and counted probabilities differ by {100 * apart:.1f} % on average over the text "
        "(0 % would be the same table, 100 % no byte in common).",
        highlight=False,
    )
    print_sample(console, learned, options.prompt, options.seed)
    curves: dict[str, Curve] = {"learned, on each batch": (range(1, steps + 1), seen)}
    path = draw(options.output_dir / "bigram.png", curves, {"counted": rows["bigram, counted"]}, learned.probabilities)
    console.print(f"Drawn in {path}", highlight=False)
    return 0


def draw(path: Path, curves: dict[str, Curve], references: dict[str, float], probabilities: Array) -> Path:
    """Draw the learning curve next to the learned table, which is shown for the bytes of printable ASCII."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(18, 9), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_curves(left, curves, references, "step")
    left.set_title("Gradient descent approaches the counts")
    shown = range(32, 127)
    image = right.imshow(np.sqrt(probabilities[32:127, 32:127]), cmap="magma_r", vmin=0, vmax=1)
    right.set_xticks(range(len(shown)), [chr(byte) for byte in shown], fontsize=6, family="monospace")
    right.set_yticks(range(len(shown)), [chr(byte) for byte in shown], fontsize=6, family="monospace")
    right.tick_params(length=0, pad=1)
    right.set(xlabel="next byte", ylabel="byte before", title="p(next | before); the colour is the square root")
    figure.colorbar(image, ax=right, shrink=0.8)
    return save_figure(figure, path)
