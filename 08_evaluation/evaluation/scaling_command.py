"""`scaling.py` as a command: about twenty models of five sizes, trained on growing amounts of one text."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from evaluation.ladder.text import TIERS, ladder_text
from evaluation.scaling.law import ScalingLaw, TrainedPoint, compute_frontier, fit_scaling_law, power_law
from evaluation.scaling.small_training import short_recipe, train_small
from evaluation.sliding_window import score_stream
from groundwork.command_line import user_path
from groundwork.figures import save_figure
from groundwork.files import read_json, write_json
from groundwork.threads import add_threads
from groundwork.user_errors import UserError, report_user_errors, require_types
from neural_networks.corpora import load_corpus
from tokenizer.tokenizer_trainer import train_bpe
from training.optimizers.parameter_groups import OptimizerConfig
from training.optimizers.schedule import ScheduleConfig
from training.placement import choose_placement
from transformer.config import GPTConfig
from transformer.model_summary import count_parameters, training_flops_per_token

WIDTHS = (16, 32, 64, 96, 128)  # d_model; 2 layers of 4 heads each
STEPS = (40, 80, 160, 320)
BATCH_SIZE, CONTEXT, VOCABULARY = 8, 128, 1024
OPTIMIZER = OptimizerConfig(name="muon", lr=8e-3, muon_lr=0.04)
SCHEDULE = ScheduleConfig(kind="linear", warmup_steps=20, final_fraction=0.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, fit, print and draw; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="scaling.py",
        description="Train models of five sizes on growing amounts of text and fit a scaling law. "
        "Finished runs are kept: the same command continues after an interruption.",
    )
    parser.add_argument(
        "--corpus", default="tiny_shakespeare", help="python_docs, tiny_shakespeare, or a file or folder"
    )
    parser.add_argument("--output", type=user_path, default=Path("outputs/scaling"), help="folder for JSON and plot")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    add_threads(parser)
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: _run(options, Console()))


def _run(options: argparse.Namespace, console: Console) -> int:
    file = options.output / "scaling.json"
    points = _read(file, options.corpus)
    wanted = [(width, steps) for width in WIDTHS for steps in STEPS if f"{width} × {steps}" not in points]
    if wanted:
        _train(wanted, points, file, options, console)
    law = fit_scaling_law(list(points.values()))
    _print(list(points.values()), law, console)
    picture = save_figure(draw_scaling(list(points.values()), law), options.output / "scaling.svg")
    _write(file, options.corpus, points, law)
    console.print(f"{file} and {picture.name}", highlight=False)
    return 0


def _train(
    wanted: list[tuple[int, int]],
    points: dict[str, TrainedPoint],
    file: Path,
    options: argparse.Namespace,
    console: Console,
) -> None:
    placement = choose_placement(options.device, "auto")
    with console.status("Reading the corpus …") as status:
        text = ladder_text(load_corpus(options.corpus, 0.05), TIERS["quick"])
        tokenizer = train_bpe(text.train, VOCABULARY)
        tokens = tokenizer.encode_documents(text.train)
        for width, steps in wanted:
            config = GPTConfig(
                tokenizer.vocab_size, CONTEXT, 2, 4, d_model=width, norm="rmsnorm", feed_forward="relu2",
                positions="rope", qk_norm=True, zero_init_residual=True,
            )  # fmt: skip
            recipe = short_recipe(steps, BATCH_SIZE, OPTIMIZER, SCHEDULE)
            status.update(f"{width} wide, {steps} steps …")
            trained = train_small(config, tokens, tokenizer, recipe, placement)
            scores = score_stream(trained.model, tokenizer, text.validation, placement)
            counts = count_parameters(config)
            seen = steps * BATCH_SIZE * CONTEXT
            point = TrainedPoint(
                counts.total - counts.embeddings,
                seen,
                float(training_flops_per_token(config)) * seen,
                scores.total_nats / len(scores.ids),
            )
            points[f"{width} × {steps}"] = point
            _write(file, options.corpus, points, None)
            console.print(
                f"{width:4} wide, {steps:4} steps: loss {point.loss:.3f}, {trained.seconds:.0f} s", highlight=False
            )


def _read(file: Path, corpus: str) -> dict[str, TrainedPoint]:
    if not file.exists():
        return {}
    try:
        content = read_json(file)
        points = {name: TrainedPoint(**values) for name, values in content["runs"].items()}
        for point in points.values():
            require_types(point, "runs")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not a file of this experiment: {error}") from None
    if content.get("corpus") != corpus:
        raise UserError(f"{file} is of the corpus {content.get('corpus')!r}; choose another --output")
    return points


def _write(file: Path, corpus: str, points: dict[str, TrainedPoint], law: ScalingLaw | None) -> None:
    content = {"corpus": corpus, "runs": {name: asdict(point) for name, point in points.items()}}
    if law is not None:
        content["law"] = {**asdict(law), "size_exponent": law.size_exponent}
    write_json(file, content)


def _print(points: list[TrainedPoint], law: ScalingLaw, console: Console) -> None:
    table = Table("parameters", "tokens", "TFLOP", "loss", "of the fit", title="Runs", title_justify="left")
    for column in table.columns:
        column.justify = "right"
    for point in points:
        fitted = law.loss(point.parameters, point.tokens)
        table.add_row(
            f"{point.parameters:,.0f}",
            f"{point.tokens:,.0f}",
            f"{point.flops / 1e12:.2f}",
            f"{point.loss:.3f}",
            f"{fitted:.3f}",
        )
    console.print(table)
    console.print(
        f"L = {law.floor:.2f} + {law.a:.3g} / N^{law.alpha:.2f} + {law.b:.3g} / D^{law.beta:.2f}   "
        f"mean error {law.mean_error:.1%}; best size grows as C^{law.size_exponent:.2f}",
        highlight=False,
    )


def draw_scaling(points: list[TrainedPoint], law: ScalingLaw) -> Figure:
    """Loss against compute: a line for each size, a dashed line for the fit, and the power law of the frontier."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for index, size in enumerate(sorted({point.parameters for point in points})):
        runs = sorted((point for point in points if point.parameters == size), key=lambda point: point.flops)
        compute = [run.flops for run in runs]
        axes.plot(compute, [run.loss for run in runs], "o-", color=f"C{index}", label=f"{size:,.0f} parameters")
        axes.plot(compute, [law.loss(size, run.tokens) for run in runs], "--", color=f"C{index}", linewidth=1)
    frontier = compute_frontier(points)
    if len(frontier) > 1:
        exponent, factor = power_law([point.flops for point in frontier], [point.loss for point in frontier])
        ends = [frontier[0].flops, frontier[-1].flops]
        axes.plot(ends, [factor * c**exponent for c in ends], color="0.2", label=f"frontier ∝ C^{exponent:.3f}")
    axes.set(xscale="log", yscale="log", xlabel="training compute in FLOP", ylabel="held-out loss, nats a token")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title("Dashed: the fitted law")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    return figure
