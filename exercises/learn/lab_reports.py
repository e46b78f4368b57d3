"""What `learn lab` and the solution of a lab print."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from groundwork.figures import save_figure
from learn.catalogue import LabEntry
from learn.experiment import Findings
from learn.lab import Lab, Value
from learn.reports import short
from learn.workspace import Workspace

_LEVELS = "▁▂▃▄▅▆▇█"
_NAMES = 24  # characters of the column of names; longer names take several lines
_SIDES = ("this file", "the package")


def print_labs(console: Console, entries: Sequence[LabEntry], workspace: Workspace) -> None:
    """Print every lab with its symptom, which is its title."""
    for entry in entries:
        solved = "[green]solved[/]" if workspace.standing(entry) == "passed" else ""
        console.print(f"{entry.number:>5}  {escape(entry.title):<64} {solved}".rstrip(), highlight=False)
    console.print(f"\nBegin one: learn lab {entries[0].number}", highlight=False)


def print_experiment(console: Console, entry: LabEntry, path: Path, findings: Findings) -> None:
    """Print what the experiment gave with the learner's file and with the package, side by side.

    Args:
        console: where to print.
        entry: the lab.
        path: the learner's file; curves are drawn into an image beside it.
        findings: the findings of the experiment.
    """
    console.print(f"[bold]{entry.number:>5}  {escape(entry.title)}[/]", highlight=False)
    if findings.printed:
        console.print("[dim]Your code printed:[/]")
        console.print(escape(findings.printed.rstrip()), highlight=False, soft_wrap=True)
    if findings.problem:
        console.print(f"       [red]{escape(findings.problem)}[/]", highlight=False, soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", max_width=_NAMES)
    for heading in _SIDES:
        table.add_column(heading, overflow="fold")
    # The space left for a curve between its first and its last value.
    width = max(8, min(32, (console.width - _NAMES - 6) // 2 - 12))
    for name, value in findings.package.items():
        pair = (findings.file.get(name, ""), value)
        if isinstance(value, list):
            table.add_row(name, *(_curve(side, pair, width) for side in pair))
        else:
            table.add_row(name, *(escape(_show(side)) for side in pair))
    console.print(table, highlight=False)
    image = draw_curves(entry, path.with_suffix(".png"), findings)
    if image is not None:
        console.print(f"Drawn in {short(image)}", highlight=False, soft_wrap=True)
    if not findings.visible:
        console.print(f"\nThe symptom is gone: learn check {entry.number}", highlight=False)
        return
    console.print(
        f"\nOne function is wrong, in {short(path)}: find the line and fix it.\n"
        f"learn lab {entry.number} measures again · learn check {entry.number} grades it · "
        f"learn hint {entry.number} · learn solution {entry.number}",
        highlight=False,
        soft_wrap=True,
    )


def draw_curves(entry: LabEntry, path: Path, findings: Findings) -> Path | None:
    """Draw the curves of an experiment as an image; return None if it has no curves.

    Args:
        entry: the lab.
        path: the path of the image.
        findings: the findings of the experiment.
    """
    names = [name for name, value in findings.package.items() if isinstance(value, list)]
    if not names:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(names), 3.6), layout="constrained")
    for index, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), index + 1)
        for side, measured, colour in zip(_SIDES, (findings.file, findings.package), ("C3", "C0"), strict=True):
            axes.plot(measured[name], color=colour, label=side)
        axes.set(title=name)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"{entry.number}  {entry.title}")
    return save_figure(figure, path)


def print_lab_solution(console: Console, entry: LabEntry, lab: Lab) -> None:
    """Print the bug as a difference, and how one could have found it."""
    broken, mended = entry.stub.splitlines(), lab.mended(entry.stub).splitlines()
    lines = list(difflib.unified_diff(broken, mended, entry.path.name, "fixed", lineterm="", n=2))
    console.print(Syntax("\n".join(lines), "diff", theme="ansi_dark", word_wrap=True))
    console.print(f"\n{escape(lab.diagnosis)}", highlight=False)
    console.print(f"\nIn the package: {lab.reference}", highlight=False, style="dim")


def _show(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:.4g}" if isinstance(value, float) else f"{value}"


def _curve(value: Value, both: Sequence[Value], width: int) -> str:
    """A curve in one line between its first and its last value, on a common scale for both sides.

    >>> _curve([0.0, 1.0, 2.0], [[0.0, 1.0, 2.0]], width=32)
    '0 ▁▅█ 2'
    """
    if not isinstance(value, list) or not value:
        return ""
    everything = [number for side in both if isinstance(side, list) for number in side if math.isfinite(number)]
    low, high = min(everything, default=0.0), max(everything, default=0.0)
    step = max(1, math.ceil(len(value) / width))
    means = [sum(value[i : i + step]) / len(value[i : i + step]) for i in range(0, len(value), step)]
    signs = "".join(
        _LEVELS[round((mean - low) / ((high - low) or 1.0) * (len(_LEVELS) - 1))] if math.isfinite(mean) else "!"
        for mean in means
    )
    return f"{value[0]:.3g} {signs} {value[-1]:.3g}"
