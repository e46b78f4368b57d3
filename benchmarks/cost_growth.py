"""How the cost of a training step grows with context, vocabulary and batch, and the cost of encoding with file size.

python benchmarks/cost_growth.py
python benchmarks/cost_growth.py --output docs/results/growth

One thing changes at a time; the rest stays at 4 layers × 128, context 128, batch 8, vocabulary 1,024. Each
point is the median of five steps. The dashed line is a straight line through the first point. A cost that doubles
when the size doubles lies on it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from groundwork.figures import save_figure
from groundwork.files import write_json
from harness import PeakMemory
from reporting import describe_machine
from tokenizer.tokenizer_trainer import train_bpe
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

CONTEXTS, VOCABULARIES, BATCHES = (64, 128, 256, 512, 1024), (256, 1024, 4096, 16_384), (1, 2, 4, 8, 16)
FILE_SIZES = (0.125, 0.25, 0.5, 1.0, 2.0)  # MB
ROUNDS = 5
TICKS = [digit * 10**power for power in range(5) for digit in (1, 2, 5)]  # milliseconds

Curve = list[dict[str, float]]


def measure_growth() -> dict[str, Curve]:
    """Seconds and memory against each size."""
    return {
        "context, tokens": [_step(size, context=size) for size in CONTEXTS],
        "vocabulary, ids": [_step(size, vocabulary=size) for size in VOCABULARIES],
        "batch, sequences": [_step(size, batch=size) for size in BATCHES],
        "file, MB": _encoding(),
    }


def _step(size: float, context: int = 128, vocabulary: int = 1024, batch: int = 8) -> dict[str, float]:
    torch.manual_seed(0)
    model = GPTModel(GPTConfig(vocabulary, context, num_layers=4, num_heads=4, d_model=128))
    ids = torch.randint(vocabulary, (batch, context + 1))

    def step() -> None:
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        model.zero_grad()

    return _timed(size, step)


def _encoding() -> Curve:
    # Random letters: no word occurs twice, so no cache can help.
    letters = torch.randint(97, 123, (int(max(FILE_SIZES) * 1e6),), generator=torch.Generator().manual_seed(0))
    letters[::7] = ord(" ")
    text = bytes(letters.tolist()).decode("ascii")
    tokenizer = train_bpe([text[:200_000]], 512)
    return [_timed(size, lambda end=int(size * 1e6): tokenizer.encode(text[:end])) for size in FILE_SIZES]  # type: ignore[misc]


def _timed(size: float, work: Callable[[], object]) -> dict[str, float]:
    with PeakMemory() as memory:
        work()
    work()  # the first call may be the first of the process, and libraries still choose their kernels in the second
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return {"size": size, "seconds": statistics.median(times), "peak_mib": round(memory.mib, 1)}


def draw_growth(curves: dict[str, Curve]) -> Figure:
    """A panel for each size, both axes logarithmic."""
    figure = Figure(figsize=(11, 3), layout="constrained")
    for axes, (name, curve) in zip(figure.subplots(1, len(curves)), curves.items(), strict=True):
        sizes, milliseconds = [point["size"] for point in curve], [1000 * point["seconds"] for point in curve]
        axes.loglog(sizes, milliseconds, "o-")
        axes.loglog(sizes, [milliseconds[0] * size / sizes[0] for size in sizes], "--", color="0.5")
        low, high = axes.get_ylim()
        ticks = [tick for tick in TICKS if low <= tick <= high]
        axes.set(xlabel=name, xticks=sizes, xticklabels=[f"{size:,g}" for size in sizes])
        axes.set(ylabel="milliseconds", yticks=ticks, yticklabels=[f"{tick:,}" for tick in ticks])
        axes.tick_params(axis="x", labelrotation=45)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write growth.json and growth.svg."""
    parser = argparse.ArgumentParser(description="How costs grow with context, vocabulary, batch and file size.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the files")
    options = parser.parse_args(arguments)
    curves = measure_growth()
    content = {"machine": describe_machine(), "curves": curves}
    write_json(options.output / "growth.json", content)
    print(save_figure(draw_growth(curves), options.output / "growth.svg"))


if __name__ == "__main__":
    main()
