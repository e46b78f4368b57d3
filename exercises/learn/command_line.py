"""The command `learn`: start, check, hint, solution, status, run, lab.

learn start
learn check 2.3
learn lab 5.A
learn run 05_training/train.py --config configs/small_gpt.yaml
"""

from __future__ import annotations

import argparse
import importlib
import io
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from groundwork.command_line import user_path
from groundwork.user_errors import report_user_errors
from learn.catalogue import Entry, LabEntry, LearnError, all_exercises, all_labs, choose, choose_one
from learn.experiment import run_apart
from learn.grade import Grade
from learn.grading_process import grade_apart
from learn.learners_file import load_function
from learn.reports import (
    numbers,
    print_grade,
    print_hints,
    print_solution,
    print_started,
    print_status,
    print_totals,
    short,
)
from learn.substitution import PACKAGES, CountedFunction, substitute
from learn.workspace import Workspace


def main(arguments: Sequence[str] | None = None, workspace: Workspace | None = None) -> int:
    """Parse the arguments, do the work, and return the exit status.

    The status is 0, or 1 if a checked exercise failed, or 2 for a mistake in usage.

    Args:
        arguments: the arguments of the command line.
        workspace: the learner's workspace; by default the one in the repository.
    """
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a character that the terminal lacks must not end the command
    console = Console()
    return report_user_errors(lambda: _do(options, console, workspace or Workspace()), status=2)


def _do(options: argparse.Namespace, console: Console, workspace: Workspace) -> int:
    entries, labs = all_exercises(), all_labs()
    if options.command == "start":
        print_started(console, workspace.start(choose(entries, options.exercises)), workspace)
        console.print("Next: learn status", highlight=False)
    elif options.command == "check":
        chosen = choose([*entries, *labs], options.exercises)
        return check(console, _without_unopened_labs(chosen, workspace), bool(options.exercises), workspace)
    elif options.command == "hint":
        hint(console, choose_one([*entries, *labs], options.exercise), options.level, workspace)
    elif options.command == "solution":
        solution(console, choose_one([*entries, *labs], options.exercise))
    elif options.command == "lab":
        lab(console, choose(labs, [options.lab] if options.lab else []), workspace)
    elif options.command == "run":
        own = choose(entries, options.only.split(",") if options.only else [])
        return run(console, own, options.script, options.arguments, workspace)
    else:
        print_status(console, entries, labs, workspace)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="learn", description="The exercises and labs of the nine stages.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    start_parser = commands.add_parser("start", help="put the exercises into workspace/; what you wrote stays")
    start_parser.add_argument("exercises", nargs="*", help="such as 2.3, or 2 for a stage; by default all")
    check_parser = commands.add_parser("check", help="grade your files")
    check_parser.add_argument("exercises", nargs="*", help="such as 2.3, or 2 for a stage; by default all")
    hint_parser = commands.add_parser("hint", help="give a hint; each call gives one more, up to three")
    hint_parser.add_argument("exercise", help="such as 2.3")
    hint_parser.add_argument("level", nargs="?", type=int, choices=(1, 2, 3), help="show the hints up to this one")
    solution_parser = commands.add_parser("solution", help="show how the package does it")
    solution_parser.add_argument("exercise", help="such as 2.3, or a lab such as 2.A")
    commands.add_parser("status", help="show how far you are and what to do next (the same as learn alone)")
    lab_parser = commands.add_parser("lab", help="find a planted bug: put a broken file there and show what it does")
    lab_parser.add_argument("lab", nargs="?", help="such as 5.A; without it, list the labs")
    run_parser = commands.add_parser("run", help="run a script of the project with your functions instead of its own")
    run_parser.add_argument("--only", help="exercises to use, such as 3,5.1; by default all that passed")
    run_parser.add_argument("script", type=user_path, help="such as 05_training/train.py")
    run_parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the script")
    return parser


def check(console: Console, entries: Sequence[Entry], named: bool, workspace: Workspace) -> int:
    """Grade the learner's files. An exercise is to do if its file is missing or has not been changed.

    Args:
        console: where to print.
        entries: exercises to grade.
        named: whether the user named them; otherwise those to do are only counted.
        workspace: the learner's workspace.

    Returns:
        1 if one failed, otherwise 0.

    Raises:
        LearnError: none of the files exists.
    """
    if not any(workspace.file_of(entry).exists() for entry in entries):
        raise LearnError("your workspace has none of these exercises yet; begin with: learn start")
    begun = [entry for entry in entries if workspace.standing(entry) != "to do"]
    graded = grade_apart([(entry, workspace.file_of(entry)) for entry in begun])
    grades = []
    for entry in entries:
        grade = Grade("to do")
        if entry in begun:
            _, grade = next(graded)
            workspace.remember(entry, grade)
        if named or entry in begun:
            print_grade(console, entry, grade, workspace.file_of(entry))
        grades.append(grade)
    if len(entries) > 1:
        print_totals(console, grades)
    return int(any(grade.state == "failed" for grade in grades))


def hint(console: Console, entry: Entry, level: int | None, workspace: Workspace) -> None:
    """Show the hints up to a level, by default one more than last time."""
    level = level or min(3, workspace.hint_level(entry) + 1)
    print_hints(console, entry, entry.load(), level)
    workspace.remember_hint(entry, max(level, workspace.hint_level(entry)))


def _without_unopened_labs(entries: Sequence[Entry], workspace: Workspace) -> list[Entry]:
    """Leave out labs that are not in the workspace yet."""
    kept = [entry for entry in entries if not isinstance(entry, LabEntry) or workspace.file_of(entry).exists()]
    if not kept:
        raise LearnError(f"the lab is not in your workspace yet; begin with: learn lab {entries[0].number}")
    return kept


def solution(console: Console, entry: Entry) -> None:
    """Show how the package does it; for a lab, the bug and how to find it."""
    if isinstance(entry, LabEntry):
        from learn.lab_reports import print_lab_solution

        print_lab_solution(console, entry, entry.load_lab())
    else:
        print_solution(console, entry.load())


def lab(console: Console, entries: Sequence[LabEntry], workspace: Workspace) -> None:
    """List labs. If there is only one, put its file into the workspace unless it is there, and run its experiment.

    Args:
        console: where to print.
        entries: one lab, or several to list.
        workspace: the learner's workspace.

    Raises:
        LearnError: the experiment does not end.
    """
    from learn.lab_reports import print_experiment, print_labs  # imports PyTorch, which `learn status` does not need

    if len(entries) > 1:
        print_labs(console, entries, workspace)
        return
    (entry,) = entries
    done = workspace.start([entry])
    if done.made:
        console.print(f"Put into {short(done.made[0])}", highlight=False, soft_wrap=True)
    if done.outdated:
        console.print("[yellow]The lab has changed since then; your file stays as it is.[/]", highlight=False)
    path = workspace.file_of(entry)
    print_experiment(console, entry, path, run_apart(entry, path))


def run(console: Console, entries: Sequence[Entry], script: Path, arguments: list[str], workspace: Workspace) -> int:
    """Run a script with the learner's functions that pass, instead of the package's.

    Args:
        console: where to print which functions are used.
        entries: exercises to consider.
        script: a script of the project.
        arguments: the arguments of the script.
        workspace: the learner's workspace.

    Returns:
        The script's exit status.

    Raises:
        LearnError: there is no such script, or no exercise has passed.
    """
    if not script.is_file():
        raise LearnError(f"there is no script {script}; name one such as 05_training/train.py")
    changed = [entry for entry in entries if workspace.standing(entry) == "changed"]
    for entry, grade in grade_apart([(entry, workspace.file_of(entry)) for entry in changed]):
        workspace.remember(entry, grade)
        print_grade(console, entry, grade, workspace.file_of(entry))
    passed = [entry for entry in entries if workspace.standing(entry) == "passed"]
    if not passed:
        raise LearnError("none of your exercises has passed yet; see: learn status")
    functions = {}
    for entry in passed:
        exercise = entry.load()
        mine = CountedFunction(load_function(workspace.file_of(entry), exercise.stub.__name__))
        substitute(exercise.resolve(), mine.function)
        functions[entry] = mine
    console.print(
        f"{short(script)} runs with your code for {len(passed)} exercise{'s' * (len(passed) > 1)}: {numbers(passed)}",
        style="bold",
        highlight=False,
        soft_wrap=True,
    )
    status = _run_script(script, arguments)
    used = {entry: function.calls for entry, function in functions.items() if function.calls}
    console.print(f"The run called {len(used)} of them:" if used else "The run called none of them.", style="bold")
    for entry, calls in used.items():
        word = "call" if calls == 1 else "calls"
        console.print(f"{entry.number:>5}  {entry.title:<52} {calls:>11,} {word}", highlight=False)
    return status


def _run_script(script: Path, arguments: list[str]) -> int:
    """Do the same as `python script arguments`, but in this process."""
    argv, path = sys.argv, list(sys.path)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    try:
        parts = script.resolve().with_suffix("").parts
        package = next((name for name in parts if name in PACKAGES), None)
        if package is not None:  # as a script it would be a second copy, without the learner's functions
            return importlib.import_module(".".join(parts[parts.index(package) :])).main() or 0
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv, sys.path[:] = argv, path
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
