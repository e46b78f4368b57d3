"""Held-out loss against time: a recipe compared with nanoGPT's documented CPU run, on the same text.

python benchmarks/time_to_loss.py
python benchmarks/time_to_loss.py --output docs/results/time_to_loss

The other side is the baseline of `training_speed.py` with the settings that nanoGPT documents: 2,000 steps of AdamW at
0.001 with 100 steps of warm-up and a cosine to a tenth. Both read the same characters, hold out the same tenth, and
have the same width, depth, context and batch. The loss is measured over the whole held-out text, in windows of the
context, in nats per character.

Sides and seeds take turns, each in a separate process with all threads. Only the seconds of training are counted; the
measurements on the held-out text are left out on both sides.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from groundwork.figures import save_figure
from groundwork.files import write_json
from recipe_runs import Curve, open_run, train_recipe
from reporting import describe_machine
from training.data.data_preparation import prepare_dataset
from training.data.token_files import Tokens
from training.optimizers.schedule import ScheduleConfig, learning_rate_factor
from training.placement import Placement
from training.run.config import RunConfig
from training.train_command import parse_config
from training.validation import total_loss
from training_speed import PlainGPT, Shape, plain_optimizer, plain_update, random_windows

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "tiny_shakespeare_fast.yaml"
PLAIN_STEPS, PLAIN_SCHEDULE = 2000, ScheduleConfig("cosine", warmup_steps=100, final_fraction=0.1)
LOOKS = 20  # measurements on the held-out text in a run


def train_ours(config: RunConfig, seed: int) -> Curve:
    """Train the recipe as `train.py` trains it."""
    return train_recipe(config, seed, LOOKS)[0]


def train_plain(config: RunConfig, seed: int) -> Curve:
    """Train nanoGPT's documented run, in plain PyTorch."""
    config, _, loader, held_out = open_run(config)
    (text,) = loader.corpora.values()
    parts, batch = config.model, config.training.batch_size
    assert parts.vocab_size is not None
    shape = Shape(
        "", parts.vocab_size, parts.context_length, parts.num_layers, parts.num_heads, parts.d_model, batch, 0, 0
    )
    torch.manual_seed(seed)
    model = PlainGPT(shape)
    optimizer = plain_optimizer(model)
    peak = optimizer.param_groups[0]["lr"]
    curve: Curve = []
    seconds = 0.0
    for step in range(PLAIN_STEPS):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = peak * learning_rate_factor(step, PLAIN_STEPS, PLAIN_SCHEDULE)
        plain_update(model, optimizer, *random_windows(text, shape))
        seconds += time.perf_counter() - start
        if (step + 1) % (PLAIN_STEPS // LOOKS) == 0:
            curve.append({"step": step + 1, "seconds": seconds, "loss": plain_loss(model, held_out)})
    return curve


def plain_loss(model: PlainGPT, held_out: Tokens) -> float:
    """The mean loss over the held-out text, in nats per token, in float32 and with the same windows as ours."""
    placement = Placement(torch.device("cpu"), torch.float32)
    total = total_loss(model, held_out, placement, lambda tensors: model(tensors["inputs"], tensors["targets"]))
    return total / (len(held_out) - 1)


def seconds_to(curve: Curve, loss: float) -> float | None:
    """The time when a run was first measured at or below a loss; None if never."""
    return next((point["seconds"] for point in curve if point["loss"] <= loss), None)


def draw(runs: dict[str, dict[str, Curve]], target: float) -> Figure:
    """Plot the loss over seconds, with a line for each seed."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for index, (side, seeds) in enumerate(runs.items()):
        for number, curve in enumerate(seeds.values()):
            seconds, losses = [p["seconds"] for p in curve], [p["loss"] for p in curve]
            axes.plot(seconds, losses, color=f"C{index}", linewidth=1.2, label=None if number else side)
    axes.axhline(target, color="0.5", linestyle="--", linewidth=1, label=f"{target:g}")
    axes.set(xlabel="seconds of training", ylabel="held-out loss, nats a character", ylim=(None, 2.8))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, write time_to_loss.json and time_to_loss.svg, and print the results."""
    parser = argparse.ArgumentParser(description="Held-out loss against time, beside nanoGPT's documented CPU run.")
    parser.add_argument("--config", default=str(CONFIG), help="the recipe; default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="default: 1 2 3")
    parser.add_argument("--target", type=float, default=1.88, help="the loss to reach; default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the files")
    options = parser.parse_args(arguments)
    config = parse_config([f"--config={options.config}"])
    prepare_dataset(config.data, config.tokenizer, Console())  # once, outside the runs
    sides = {Path(options.config).stem: train_ours, "nanoGPT's documented run": train_plain}
    runs: dict[str, dict[str, Curve]] = {side: {} for side in sides}
    jobs = [(side, seed) for seed in options.seeds for side in sides]
    for side, seed in track(jobs, "Training"):
        # A process for each run, because ours changes settings of the memory allocator.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            runs[side][str(seed)] = pool.submit(sides[side], config, seed).result()
    tokens = config.training.batch_size * config.model.context_length
    reached = {side: [seconds_to(curve, options.target) for curve in seeds.values()] for side, seeds in runs.items()}
    content = {"machine": describe_machine(), "target": options.target, "tokens_per_step": tokens}
    content |= {"seconds_to_target": reached, "runs": runs}
    write_json(options.output / "time_to_loss.json", content)
    print(save_figure(draw(runs, options.target), options.output / "time_to_loss.svg"))
    for side, seeds in runs.items():
        whole = statistics.median(curve[-1]["seconds"] for curve in seeds.values())
        losses = ", ".join(f"{curve[-1]['loss']:.3f}" for curve in seeds.values())
        times = ", ".join("never" if seconds is None else f"{seconds:.1f} s" for seconds in reached[side])
        print(f"{side}: {whole:.1f} s, loss {losses}; at {options.target:g} after {times}")


if __name__ == "__main__":
    main()
