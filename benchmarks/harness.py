"""The one way in which this project measures speed.

Contenders take turns (ours, theirs, ours, theirs, …) in one process, so that a machine which slows
down half-way slows them all. Reported are the median, the spread, and the ratio of medians.
"""

from __future__ import annotations

import gc
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
import torch


@dataclass(frozen=True)
class Contender:
    """One way of doing the work.

    Args:
        name: as printed; the first contender of a comparison is ours.
        run: does the work once; what it returns is thrown away.
        setup: called before each run, outside the timing.
    """

    name: str
    run: Callable[[], object]
    setup: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Measurement:
    """Timings of one contender."""

    name: str
    seconds: list[float]
    throughput: float  # work done in the median run, in units a second
    ratio: float  # our median speed over this contender's: above 1, we are faster


@dataclass(frozen=True)
class Comparison:
    """One row of the report for each contender.

    Args:
        title: what is compared.
        unit: of the throughput, such as "MB/s".
        work: units of work in one run.
    """

    title: str
    unit: str
    work: float
    measurements: list[Measurement] = field(default_factory=list)


def compare(title: str, unit: str, work: float, contenders: list[Contender], rounds: int) -> Comparison:
    """Run every contender once to warm up, then `rounds` times in turn."""
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for round_number in range(rounds + 1):
        for contender in contenders:
            contender.setup()
            gc.collect()
            start = time.perf_counter()
            contender.run()
            if round_number:
                seconds[contender.name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ours = medians[contenders[0].name]
    return Comparison(
        title,
        unit,
        work,
        [
            Measurement(name, [round(t, 6) for t in times], work / medians[name], medians[name] / ours)
            for name, times in seconds.items()
        ],
    )


def describe_machine() -> dict[str, object]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cores": psutil.cpu_count(logical=True),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def to_markdown(comparisons: list[Comparison], machine: dict[str, object]) -> str:
    """The report as Markdown tables."""
    lines = [
        "# Benchmarks",
        "",
        ", ".join(f"{name} {value}" for name, value in machine.items() if value is not None),
        "",
        "Ratio: our speed over theirs; above 1, ours is faster. Spread: (slowest - fastest) / median.",
    ]
    for comparison in comparisons:
        lines += [
            "",
            f"## {comparison.title}",
            "",
            f"| | {comparison.unit} | spread | ratio |",
            "| --- | ---: | ---: | ---: |",
        ]
        for m in comparison.measurements:
            spread = (max(m.seconds) - min(m.seconds)) / statistics.median(m.seconds)
            lines.append(f"| {m.name} | {m.throughput:,.2f} | {spread:.0%} | {m.ratio:.2f} |")
    return "\n".join(lines) + "\n"


def write_report(folder: Path, comparisons: list[Comparison]) -> str:
    """Write `results.json` and `results.md`; return the Markdown."""
    machine = describe_machine()
    folder.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, "comparisons": [asdict(comparison) for comparison in comparisons]}
    (folder / "results.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    markdown = to_markdown(comparisons, machine)
    (folder / "results.md").write_text(markdown, encoding="utf-8")
    return markdown
