"""Print what the command has to say."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from learn.catalogue import ROOT, Entry, LabEntry
from learn.exercise import Exercise
from learn.grade import Grade
from learn.workspace import Standing, Started, Workspace

_BAR = {"passed": "[green]█[/]", "failed": "[red]×[/]", "changed": "[yellow]▒[/]", "to do": "[dim]░[/]"}
_TITLE = 52  # so many characters of a title fit beside a result
_WORD = {"passed": "[green]passed[/]", "failed": "[red]failed[/]", "to do": "[dim]to do[/]"}


def short(path: Path) -> str:
    """A path as the user would type it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def print_started(console: Console, done: Started, workspace: Workspace) -> None:
    """Say what `learn start` did."""
    console.print(f"{len(done.made)} exercises put into {short(workspace.folder)}", highlight=False)
    if done.kept:
        console.print(f"{len(done.kept)} were there already and stay as they are", highlight=False)
    for path in done.updated:
        console.print(f"updated, because you had not begun it: {short(path)}", highlight=False, soft_wrap=True)
    for path in done.outdated:
        new = Path(path.parent.name) / "exercises" / path.name
        line = f"[yellow]the exercise has changed[/], see {new}; your file stays as it is: {short(path)}"
        console.print(line, highlight=False, soft_wrap=True)


def print_grade(console: Console, entry: Entry, grade: Grade, path: Path) -> None:
    """Print one line for an exercise, and the reason if it failed."""
    title = entry.title if len(entry.title) <= _TITLE else entry.title[: _TITLE - 1] + "…"
    title = f"{entry.number:>5}  {escape(f'{title:<{_TITLE}}')}"
    counts = f"[dim]{grade.total} questions[/]" if grade.state == "passed" else ""
    console.print(f"{title} {_WORD[grade.state]}  {counts}".rstrip(), highlight=False)
    if grade.state != "failed":
        return
    lines = []
    if grade.question:
        lines.append(f"[bold]Question {grade.passed + 1} of {grade.total}[/]: {escape(grade.question)}")
        lines.append(f"[dim]{escape(grade.call)}[/]")
    lines.append(f"[red]{escape(grade.problem)}[/]")
    if grade.line:
        lines.append(f"{escape(path.name)}, {escape(grade.line)}")
    if grade.likely:
        lines.append(f"[yellow]Likely:[/] {escape(grade.likely)}")
    if grade.printed:
        lines += ["[dim]Your code printed:[/]", *(f"  {escape(line)}" for line in grade.printed.splitlines())]
    lines.append(f"[dim]{escape(short(path))} · learn hint {entry.number}[/]")
    for line in lines:
        console.print(f"       {line}", highlight=False, soft_wrap=True)


def numbers(entries: Sequence[Entry]) -> str:
    """Numbers of exercises in short form: three or more in sequence become a range.

    >>> from learn.catalogue import all_exercises
    >>> numbers([entry for entry in all_exercises() if entry.number in ("1.9", "1.10", "2.1", "2.2", "2.3", "2.5")])
    '1.9, 1.10, 2.1–2.3, 2.5'
    """
    parts: list[list[str]] = []
    for entry in entries:
        stage, _, place = entry.number.partition(".")
        if parts and parts[-1][-1] == f"{stage}.{int(place) - 1}":
            parts[-1].append(entry.number)
        else:
            parts.append([entry.number])
    return ", ".join(f"{part[0]}–{part[-1]}" if len(part) > 2 else ", ".join(part) for part in parts)


def print_totals(console: Console, grades: Sequence[Grade]) -> None:
    """Print the last line of `learn check`."""
    counts = Counter(grade.state for grade in grades)
    parts = [f"{counts[state]} {state}" for state in ("passed", "failed", "to do") if counts[state]]
    console.print(", ".join(parts), style="bold", highlight=False)


def print_status(console: Console, entries: Sequence[Entry], labs: Sequence[LabEntry], workspace: Workspace) -> None:
    """Print a bar for each stage, how many labs are solved, and what to do next."""
    standings = {entry.name: workspace.standing(entry) for entry in entries}
    table = Table(box=None, show_header=False, pad_edge=False)
    for stage in sorted({entry.stage for entry in entries}):
        own = [entry for entry in entries if entry.stage == stage]
        bar = " ".join(_BAR[standings[entry.name]] for entry in own)
        passed = sum(standings[entry.name] == "passed" for entry in own)
        table.add_row(f"{stage}", own[0].folder[3:].replace("_", " "), bar, f"{passed} of {len(own)}")
    console.print(table)
    console.print("[green]█[/] passed  [red]×[/] failed  [yellow]▒[/] not checked since it changed  [dim]░ to do[/]")
    solved = sum(workspace.standing(lab) == "passed" for lab in labs)
    console.print(f"Labs, with a bug to find: {solved} of {len(labs)} solved   (learn lab)", highlight=False)
    console.print(f"\nNext: {_advice(entries, standings, workspace)}", highlight=False, soft_wrap=True)


def _advice(entries: Sequence[Entry], standings: dict[str, Standing], workspace: Workspace) -> str:
    begun = {entry.stage for entry in entries if standings[entry.name] != "to do"}
    entries = sorted(entries, key=lambda entry: entry.stage not in begun)  # continue in stages that are begun
    order: tuple[Standing, ...] = ("changed", "failed", "to do")
    for standing in order:
        entry = next((entry for entry in entries if standings[entry.name] == standing), None)
        if entry is None:
            continue
        where = short(workspace.file_of(entry))
        if not workspace.file_of(entry).exists():
            return "learn start"
        if standing == "changed":
            return f"learn check {entry.number}   ({escape(entry.title)}, in {where})"
        if standing == "failed":
            return f"fix {entry.number}, {escape(entry.title)}, in {where}; learn hint {entry.number} helps"
        return f"{entry.number}, {escape(entry.title)}: write {where}, then learn check {entry.number}"
    return "all done. Try: learn run 05_training/train.py --config configs/small_gpt.yaml"


def print_hints(console: Console, entry: Entry, exercise: Exercise, level: int) -> None:
    """Print the hints up to a level."""
    for number, hint in enumerate(exercise.hints[:level], start=1):
        console.print(f"[bold]Hint {number} of 3[/]  {escape(hint)}", highlight=False)
    if level < 3:
        console.print(f"[dim]One more hint: learn hint {entry.number}[/]", highlight=False)
    else:
        console.print(f"[dim]That is all; learn solution {entry.number} shows the package's code[/]", highlight=False)


def print_solution(console: Console, exercise: Exercise) -> None:
    """Print where the package has the function, and its code."""
    function = inspect.unwrap(exercise.resolve().function)
    if isinstance(function, (staticmethod, classmethod)):
        function = function.__func__
    lines, first = inspect.getsourcelines(function)
    path = Path(inspect.getsourcefile(function) or "")
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    console.print(f"{shown}, line {first}: {exercise.reference.partition(':')[2]}", highlight=False)
    console.print(
        Syntax("".join(lines), "python", line_numbers=True, start_line=first, theme="ansi_dark", word_wrap=True)
    )
