"""The results of the comparisons, as JSON, Markdown and a plot."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import psutil
import torch
from matplotlib.figure import Figure

from groundwork.figures import save_figure
from groundwork.files import read_json, write_atomically, write_json
from harness import Comparison


def describe_machine() -> dict[str, object]:
    """The machine and the day of the measurement."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cpu": cpu,
        "cores": psutil.cpu_count(logical=True),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,  # average of the last minute
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip() or None,
        "date": datetime.date.today().isoformat(),
    }


def spread(seconds: Sequence[float]) -> float:
    """(slowest - fastest) / median."""
    return (max(seconds) - min(seconds)) / statistics.median(seconds)


def to_markdown(groups: dict[str, dict[str, Any]]) -> str:
    """The report as Markdown tables.

    Args:
        groups: the groups, as in results.json.
    """
    lines = [
        "# Benchmarks",
        "",
        "Medians of alternating runs. Spread: (slowest - fastest) / median. Ratio: our speed over theirs in each round; above",
        "1, ours is faster. It is the median, with the smallest and the largest in brackets. Memory: added by the run.",
    ]
    for name, group in groups.items():
        described = ", ".join(f"{key} {value}" for key, value in group["machine"].items() if value is not None)
        lines += ["", f"## {name}", "", described + (", --quick" if group["quick"] else "")]
        for comparison in group["comparisons"]:
            lines += [
                "",
                f"### {comparison['title']}",
                "",
                f"| | {comparison['unit']} | spread | ratio | memory, MiB |",
                "| --- | ---: | ---: | ---: | ---: |",
            ]
            lines += [_row(index, m) for index, m in enumerate(comparison["measurements"])]
    return "\n".join(lines) + "\n"


def _row(index: int, m: dict[str, Any]) -> str:
    ratio = f"{m['ratio']:.2f} [{m['ratio_low']:.2f}, {m['ratio_high']:.2f}]" if index else ""
    return f"| {m['name']} | {m['throughput']:,.2f} | {spread(m['seconds']):.0%} | {ratio} | {m['peak_mib']:,.0f} |"


def draw_ratios(comparisons: Sequence[dict[str, Any]]) -> Figure:
    """Plot our speed divided by each peer's, with the range of the rounds. To the right of the line, ours is faster."""
    rows = [(c["title"], m) for c in comparisons for m in c["measurements"][1:]]
    figure = Figure(figsize=(10, 0.34 * len(rows) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    for place, (_, m) in enumerate(rows):
        colour = "C0" if m["ratio"] >= 1 else "C3"
        axes.plot([m["ratio_low"], m["ratio_high"]], [place, place], color=colour, linewidth=2, alpha=0.5)
        axes.plot(m["ratio"], place, "o", color=colour)
    axes.axvline(1, color="0.3", linewidth=1)
    labels = [f"{title[:70]}\nbeside {m['name']}" for title, m in rows]
    axes.set(xscale="log", yticks=range(len(rows)), xlabel="our speed over theirs")
    axes.set_yticklabels(labels, fontsize=6)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.3, axis="x", which="both")
    axes.invert_yaxis()
    return figure


def write_report(folder: Path, name: str, comparisons: list[Comparison], quick: bool) -> str:
    """Put a group of comparisons into `results.json`, `results.md` and `results.svg`; return the Markdown.

    Other groups stay in the files, each with the machine and the day of its measurement.

    Args:
        folder: folder of the report.
        name: name of the group.
        comparisons: results of the group.
        quick: whether it was measured with less data.
    """
    path = folder / "results.json"
    groups: dict[str, Any] = read_json(path) if path.exists() else {}
    measured = [asdict(comparison) for comparison in comparisons]
    groups[name] = {"machine": describe_machine(), "quick": quick, "comparisons": measured}
    write_json(path, groups)
    markdown = to_markdown(groups)
    write_atomically(folder / "results.md", markdown)
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # letters instead of their outlines: a tenth of the size
        save_figure(draw_ratios([c for group in groups.values() for c in group["comparisons"]]), folder / "results.svg")
    return markdown
