"""Make every figure of the lessons from the project's own code.

python docs/make_figures.py            # all, into docs/figures
python docs/make_figures.py masks      # one
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from attention.flash_attention import flash_attention, peak_bytes
from attention.masks import causal_mask, document_mask, left_padded_positions, left_padding_mask
from attention.scaled_dot_product import attention_fused, attention_reference
from neural_networks.optimizers import SGD, Adam, Momentum
from training.optimizers.schedule import ScheduleConfig, learning_rate_factor
from transformer.feed_forward import ACTIVATIONS
from transformer.logits_processors import keep_min_p, keep_top_k, keep_top_p, keep_typical
from transformer.positional_encoding import RotaryEmbedding, alibi_slopes, sinusoidal_table
from transformer.rope_scaling import RopeScaling, rotary_speeds

FOLDER = Path(__file__).parent / "figures"


def descent() -> Figure:
    """Three optimizers in a valley that is 25 times as steep across as along its floor."""
    steepness = np.array([1.0, 25.0])  # for f(x, y) = (x² + 25 y²) / 2, whose gradient is (x, 25 y)
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.4), layout="constrained", sharey=True)
    x, y = np.meshgrid(np.linspace(-10, 3, 53), np.linspace(-2, 2, 33))
    ways: dict[str, Callable[[np.ndarray], SGD | Momentum | Adam]] = {
        "gradient descent, η = 0.07": lambda place: SGD([place], 0.07),
        "momentum, η = 0.02, μ = 0.8": lambda place: Momentum([place], 0.02, 0.8),
        "Adam, η = 0.4": lambda place: Adam([place], 0.4),
    }
    for axis, (name, make) in zip(axes, ways.items(), strict=True):
        place = np.array([-9.0, 1.5])
        optimizer = make(place)
        path = [place.copy()]
        for _ in range(40):
            optimizer.step([steepness * place])
            path.append(place.copy())
        axis.contour(x, y, (x**2 + 25 * y**2) / 2, levels=[0.5, 2, 5, 10, 20, 35, 50], colors="#d0d7de", linewidths=0.8)
        axis.plot(*np.array(path).T, ".-", color="#0969da", linewidth=0.8, markersize=4)
        axis.plot(0, 0, "x", color="black")
        axis.set_title(name)
    return figure


def masks() -> Figure:
    """Which keys each query sees, for the masks of stage 2."""
    drawings = {
        "causal": causal_mask(8, 8),
        "after a cache of 5": causal_mask(3, 8),
        "window of 3, 1 sink": causal_mask(8, 8, window=3, sinks=1),
        "documents": document_mask(torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2]]))[0, 0],
        "padded on the left": left_padding_mask(left_padded_positions(torch.tensor([5]), 8), 8)[0, 0],
    }
    figure, axes = plt.subplots(1, len(drawings), figsize=(10, 2.4), layout="constrained")
    for axis, (title, mask) in zip(axes, drawings.items(), strict=True):
        axis.imshow(mask, cmap="Blues", vmin=0, vmax=1.5)
        axis.set(title=title, xticks=[], yticks=[], xlabel="keys")
    axes[0].set_ylabel("queries")
    return figure


def attention_memory() -> Figure:
    """Peak memory of forward and backward, plotted against the length, for three forms of attention."""

    def matrices(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attention_reference(q, k, v, causal_mask(q.shape[-2], k.shape[-2]))[0]

    lengths = [128, 256, 512, 1024, 2048, 4096]
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    forms = {"matrices": matrices, "tiles (flash_attention.py)": flash_attention, "fused kernel": attention_fused}
    for (name, form), style in zip(forms.items(), ("o-", "s-", "^--"), strict=True):
        axis.loglog(lengths, [peak_bytes(form, n) / 2**20 for n in lengths], style, label=name, base=2)
    axis.set(xlabel="positions", ylabel="MiB", title="Peak memory, one head of 64 dimensions, forward + backward")
    axis.legend()
    axis.grid(alpha=0.3)
    return figure


def activations() -> Figure:
    """The activations of the feed-forward."""
    x = torch.linspace(-3, 3, 301)
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for name, activation in {**ACTIVATIONS, "silu (in swiglu)": F.silu}.items():
        axis.plot(x, activation(x), label=name, linestyle="--" if name == "gelu_tanh" else "-")
    axis.set(ylim=(-0.5, 3), xlabel="x", title="Activations")
    axis.legend()
    axis.grid(alpha=0.3)
    return figure


def positions() -> Figure:
    """How the score of a query and an equal key falls with their distance."""
    torch.manual_seed(0)
    size, length = 64, 256
    vectors = torch.randn(200, 1, 1, size).expand(200, 1, length, size)
    turned = RotaryEmbedding(size, length)(slice(0, length))(vectors)[:, 0]
    rotary = (turned[:, -1:] * turned).sum(-1).mean(0).flip(0)
    table = sinusoidal_table(length, size)
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained", sharex=True)
    axes[0].plot((table[-1:] * table).sum(-1).flip(0))
    axes[0].set_title("sinusoidal")
    axes[1].plot(rotary)
    axes[1].set_title("rotary, mean of 200 random vectors")
    for slope in alibi_slopes(8):
        axes[2].plot(-slope * torch.arange(length))
    axes[2].set(title="ALiBi, 8 heads", ylim=(-40, 1))
    for axis in axes:
        axis.set_xlabel("distance")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("score")
    return figure


def rope_scaling() -> Figure:
    """Wavelengths of the rotary pairs for each way to stretch the context."""
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    trained, factor = 2048, 4.0
    axis.semilogy(2 * math.pi / rotary_speeds(64, 1e4)[0], "k-", label="trained")
    scalings = (RopeScaling(kind, factor, trained) for kind in ("linear", "ntk", "yarn", "llama3"))
    for scaling in scalings:
        axis.semilogy(2 * math.pi / rotary_speeds(64, 1e4, scaling)[0], "--", label=scaling.kind)
    axis.axhline(trained, color="gray", linewidth=0.8)
    axis.annotate("trained context", (0, trained), textcoords="offset points", xytext=(0, 3), fontsize=8)
    axis.set(xlabel="pair of dimensions", ylabel="positions for one turn", title=f"Context {trained:,} × {factor:g}")
    axis.legend()
    axis.grid(alpha=0.3)
    return figure


def sampling() -> Figure:
    """The part of one distribution that each processor keeps."""
    logits = torch.tensor([3.0, 2.5, 2.3, 1.5, 1.2, 1.0, 0.4, 0.0, -0.3, -1.0, -1.2, -2.0])
    processors: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "as predicted": lambda x: x,
        "temperature 0.5": lambda x: x / 0.5,
        "top-k 3": lambda x: keep_top_k(x, 3),
        "top-p 0.9": lambda x: keep_top_p(x, 0.9),
        "min-p 0.15": lambda x: keep_min_p(x, 0.15),
        "typical 0.3": lambda x: keep_typical(x, 0.3),
    }
    figure, axes = plt.subplots(1, len(processors), figsize=(11, 2.3), sharey=True, layout="constrained")
    for axis, (name, process) in zip(axes, processors.items(), strict=True):
        axis.bar(range(len(logits)), logits.softmax(-1), width=0.9, color="#d0d7de", label="as predicted")
        axis.bar(range(len(logits)), process(logits).softmax(-1), width=0.5, color="#0969da", label="drawn from")
        axis.set(title=name, xticks=[])
    axes[0].set(ylabel="probability", xlabel="twelve tokens")
    axes[-1].legend(fontsize=7)
    return figure


def schedules() -> Figure:
    """The learning rate over a run of 1,000 steps, for each schedule of stage 5."""
    steps = range(1000)
    figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
    shapes = {
        "cosine": ScheduleConfig("cosine", 100, 0.1),
        "linear": ScheduleConfig("linear", 100, 0.0),
        "wsd": ScheduleConfig("wsd", 100, 0.0, 0.3),
        "inverse_sqrt": ScheduleConfig("inverse_sqrt", 100),
    }
    for name, shape in shapes.items():
        axis.plot(steps, [learning_rate_factor(step, len(steps), shape) for step in steps], label=name)
    axis.set(xlabel="step", ylabel="share of the peak rate", title="Schedules, 100 steps of warm-up")
    axis.legend()
    axis.grid(alpha=0.3)
    return figure


FIGURES = {
    figure.__name__: figure
    for figure in (descent, masks, attention_memory, activations, positions, rope_scaling, sampling, schedules)
}


def main() -> None:
    """Make the figures that are asked for."""
    parser = argparse.ArgumentParser(description="Make the figures of the lessons.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(FIGURES)}; default: all")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder for the SVG files")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - FIGURES.keys()):
        parser.error(f"unknown: {', '.join(unknown)}; the choices are {', '.join(FIGURES)}")
    # Text stays text, and names do not change from run to run. So an unchanged figure gives an unchanged file.
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "nullm", "font.size": 9})
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.names or FIGURES:
        figure = FIGURES[name]()
        figure.savefig(options.output / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)
        print(options.output / f"{name}.svg")


if __name__ == "__main__":
    main()
