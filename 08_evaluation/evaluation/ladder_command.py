"""`ladder.py` as a command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from evaluation.ladder.models import measure_checkpoint
from evaluation.ladder.rungs import Ladder, Rung, draw_ladder
from evaluation.ladder.text import TIERS, ladder_text
from groundwork.command_line import user_path
from groundwork.figures import save_figure
from groundwork.threads import add_threads
from groundwork.user_errors import UserError, report_user_errors
from neural_networks.corpora import load_corpus
from training.placement import choose_placement


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, climb, print and draw; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="ladder.py", description="Bits per byte of everything from counting to the best recipe, on one text."
    )
    parser.add_argument("--corpus", default="python_docs", help="python_docs, tiny_shakespeare, or a file or folder")
    parser.add_argument("--validation-fraction", type=float, default=0.05, help="share of the text that is held out")
    parser.add_argument("--quick", action="store_true", help="less text and smaller models: minutes, not an hour")
    parser.add_argument("--only", action="append", metavar="RUNG", help="measure only this rung; may be repeated")
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="NAME=CHECKPOINT",
        help="add a checkpoint of your own as a rung, such as: after SFT=checkpoints/sft",
    )
    parser.add_argument(
        "--output", type=user_path, help="folder for ladder.json and ladder.svg; default: outputs/ladder_<tier>"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    add_threads(parser)
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: _run(options, Console()))


def _run(options: argparse.Namespace, console: Console) -> int:
    tier = TIERS["quick" if options.quick else "full"]
    folder = options.output or Path("outputs", f"ladder_{tier.name}")
    also = [_name_and_path(text) for text in options.also]
    placement = choose_placement(options.device, "auto")
    with console.status("Reading the corpus …") as status:
        text = ladder_text(load_corpus(options.corpus, options.validation_fraction), tier)
        ladder = Ladder(text, tier, placement, folder / "ladder.json")
        for name in options.only or ladder.measurements():
            status.update(f"{name} …")
            rung = ladder.climb(name, status.update)
            console.print(f"{rung.bits_per_byte:7.3f}  {rung.name}", highlight=False)
        for name, path in also:
            status.update(f"{name} …")
            bits, parameters = measure_checkpoint(path, text, placement)
            ladder.add(Rung(name, 6, bits, 0.0, parameters))
    _print(ladder, console)
    rungs = list(ladder.rungs.values())
    picture = save_figure(draw_ladder(rungs, f"{text.name}, {text.train_bytes / 1e6:.1f} MB"), folder / "ladder.svg")
    console.print(f"{ladder.file} and {picture.name}", highlight=False)
    return 0


def _name_and_path(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise UserError(f"--also takes NAME=CHECKPOINT, got {text!r}")
    return name, path


def _print(ladder: Ladder, console: Console) -> None:
    text = ladder.text
    console.print(
        f"{text.name}: {text.train_bytes:,} bytes to learn from, {text.validation_bytes:,} held out", highlight=False
    )
    table = Table("", "bits per byte", "seconds", "parameters")
    for column in table.columns[1:]:
        column.justify = "right"
    for rung in sorted(ladder.rungs.values(), key=lambda rung: -rung.bits_per_byte):
        seconds = f"{rung.seconds:,.1f}" if rung.seconds else ""
        table.add_row(
            rung.name, f"{rung.bits_per_byte:.3f}", seconds, f"{rung.parameters:,}" if rung.parameters else ""
        )
    console.print(table)
