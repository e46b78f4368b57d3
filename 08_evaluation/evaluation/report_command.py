"""`report.py` as a command."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from evaluation.report.data import gather_report
from evaluation.report.page import render
from groundwork.command_line import user_path
from groundwork.files import read_yaml, write_atomically
from groundwork.threads import add_threads
from groundwork.user_errors import UserError, report_user_errors
from neural_networks.corpora import load_corpus
from optimization.model_loading import load_for_inference
from training.checkpoints.checkpoint import find_checkpoint, newest_run
from training.placement import choose_placement

HELD_OUT = 0.05  # share of a corpus that the user names; it is the share of the presets


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, write the page, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="report.py", description="One HTML page on a model: figures, losses, failures, samples, a look inside."
    )
    parser.add_argument(
        "--checkpoint",
        help="a run, a checkpoint, a folder of Hugging Face weights, a GGUF file, or a name on the hub; default: the newest run",
    )
    parser.add_argument("--corpus", help="held-out text to measure on; default: what the model was trained on")
    parser.add_argument("--documents", type=int, default=200, help="held-out documents to measure, spread evenly")
    parser.add_argument("--samples", type=int, default=12, help="documents that the model writes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling")
    parser.add_argument("--output", type=user_path, help="the page; default: outputs/report_<run>.html")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    add_threads(parser)
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: _run(options, Console()))


def _run(options: argparse.Namespace, console: Console) -> int:
    placement = choose_placement(options.device, "float32")
    loaded = load_for_inference(options.checkpoint or newest_run(), placement.device)
    try:
        name, fraction = _corpus_of(loaded.folder)
    except UserError:
        if not options.corpus:
            raise
        name, fraction = options.corpus, HELD_OUT
    with console.status("Reading the corpus …") as status:
        corpus = load_corpus(options.corpus or name, fraction)
        data = gather_report(loaded, corpus, placement, options.documents, options.samples, options.seed, status.update)
    path = options.output or Path("outputs", f"report_{loaded.folder.parent.name}.html")
    write_atomically(path, render(data))
    interval = data.bits_per_byte
    console.print(
        f"{data.title}: {interval.estimate:.3f} bits per byte ({interval.low:.3f} – {interval.high:.3f}) on "
        f"{data.documents} documents, calibration error {data.calibration.expected_error:.3f}",
        highlight=False,
    )
    console.print(f"{path}", highlight=False)
    return 0


def _corpus_of(folder: Path) -> tuple[str, float]:
    """The name of the corpus and the held-out share, from the configuration of a checkpoint or of its base."""
    seen: set[Path] = set()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        while folder not in seen:
            seen.add(folder)
            config = read_yaml(folder / "config.yaml")
            if "corpus" in config["data"]:
                return str(config["data"]["corpus"]), float(config["data"]["validation_fraction"])
            folder = find_checkpoint(config["base"])  # a fine-tuned model names its base, which names the corpus
    raise UserError(f"{folder / 'config.yaml'} does not say what the model was trained on; name it with --corpus")
