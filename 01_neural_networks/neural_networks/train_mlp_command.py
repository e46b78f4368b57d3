"""`train_mlp.py` as a command: train the neural language model of Bengio et al. (2003) in NumPy, on bytes."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence

import numpy as np
from rich.console import Console

from groundwork.command_line import at_least_one, learning_rate, progress_bar
from groundwork.figures import save_curves
from groundwork.user_errors import report_user_errors
from neural_networks.byte_models import byte_stream, context_windows, measure
from neural_networks.command_line import compressor_rows, corpus_arguments, load, print_ladder, print_sample
from neural_networks.kneser_ney import MAX_ORDER, KneserNeyModel
from neural_networks.mlp_numpy import MLP, MLPConfig, MLPError
from neural_networks.ngram import BigramModel, UnigramModel
from neural_networks.optimizers import SGD, Adam, Momentum

OPTIMIZERS = {"adam": Adam, "momentum": Momentum, "sgd": SGD}
LOOKS = 20  # how often the held-out text is measured during training
LOOK_BYTES = 20_000
DIVERGED = 1000.0  # nats a byte: no training recovers from that


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, and return the exit status."""
    parser = corpus_arguments(
        "A network reads the bytes before and gives each of the 256 possible next bytes a probability.\n\n"
        "Each byte becomes a vector. The joined vectors go through a tanh layer and a softmax.\n"
        "Every gradient is computed by hand in neural_networks/mlp_numpy.py."
    )
    parser.add_argument("--context", type=int, default=MLPConfig.context, help="bytes that the network sees")
    parser.add_argument("--embedding-dim", type=int, default=MLPConfig.embedding_dim, help="numbers for each byte")
    parser.add_argument("--hidden", type=int, default=MLPConfig.hidden, help="width of the tanh layer")
    parser.add_argument("--steps", type=int, default=16_000, help="batches to learn from")
    parser.add_argument("--batch-size", type=int, default=256, help="predictions in each batch")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adam", help="what to do with the gradient")
    parser.add_argument("--lr", type=float, default=4e-3, help="first learning rate; it falls to 0 linearly")
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: run(options, Console()))


def run(options: argparse.Namespace, console: Console) -> int:
    """Train, measure, draw."""
    config = MLPConfig(options.context, options.embedding_dim, options.hidden)
    steps, batch_size = at_least_one("steps", options.steps), at_least_one("batch_size", options.batch_size)
    lr = learning_rate(options.lr)
    corpus = load(options, console)
    rng = np.random.default_rng(options.seed)
    model = MLP(config, rng)
    optimizer = OPTIMIZERS[options.optimizer]([model.parameters], lr)
    stream = byte_stream(corpus.train)
    windows = context_windows(stream, config.context)
    apart = max(1, corpus.validation_bytes // LOOK_BYTES)
    look = byte_stream(corpus.validation[::apart])[:LOOK_BYTES]  # documents from all over the held-out text
    console.print(f"{model.parameters.size:,} parameters, {options.optimizer}", highlight=False)

    losses, looks = np.empty(steps), ([0], [model.total_nats(look) / (len(look) - 1) / math.log(2)])
    start = time.perf_counter()
    # A diverging run overflows; the check below says so in one line.
    with progress_bar(console) as progress, np.errstate(over="ignore", invalid="ignore"):
        task = progress.add_task("Training", total=steps, note="")
        for step in range(steps):
            optimizer.lr = lr * (1 - step / steps)
            losses[step] = model.loss_and_gradients(windows[rng.integers(0, len(windows), batch_size)])
            optimizer.step([model.gradients])
            if not math.isfinite(losses[step]) or losses[step] > DIVERGED:
                raise MLPError(
                    f"training diverged: a loss of {losses[step]:.0f} nats a byte at step {step + 1:,}, where a "
                    f"uniform guess costs {math.log(256):.1f}; try a smaller --lr than {lr}"
                )
            if (step + 1) % max(1, steps // LOOKS) == 0:
                looks[0].append(step + 1)
                looks[1].append(model.total_nats(look) / (len(look) - 1) / math.log(2))
            if step % 50 == 0:
                progress.update(task, completed=step, note=f"{losses[step] / math.log(2):.2f} bits")
        progress.update(task, completed=steps)
    seconds = time.perf_counter() - start
    console.print(
        f"{steps:,} steps in {seconds:.0f} s: {steps / seconds:,.0f} steps/s, "
        f"{steps * batch_size / len(windows):.2f} times the training text",
        highlight=False,
    )
    mlp = measure(model, corpus.validation)
    references = compressor_rows(corpus)
    order = min(MAX_ORDER, config.context + 1)
    counting = {
        "unigram": measure(UnigramModel(stream), corpus.validation),
        "bigram": measure(BigramModel(stream), corpus.validation),
        f"Kneser-Ney, order {order}": measure(KneserNeyModel(stream, order), corpus.validation),
    }
    print_ladder(console, {"uniform guess": 8.0, **counting, **references, "MLP": mlp})
    print_sample(console, model, options.prompt, options.seed)
    path = save_curves(
        options.output_dir / "mlp.png",
        {"training, mean of 100 batches": _smooth(losses, 100), "held-out text, a part": looks},
        references | {"bigram": counting["bigram"]},
        xlabel="step",
        title=f"MLP on {corpus.name}: {mlp:.3f} bits per byte",
    )
    console.print(f"Drawn in {path}", highlight=False)
    return 0


def _smooth(losses: np.ndarray, width: int) -> tuple[list[float], list[float]]:
    """The steps in the middle of each run of `width` losses, and the means of the runs in bits."""
    width = min(width, len(losses))
    means = losses[: len(losses) // width * width].reshape(-1, width).mean(axis=1) / math.log(2)
    return [(i + 0.5) * width for i in range(len(means))], means.tolist()
