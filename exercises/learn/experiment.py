"""Run a lab's experiment in a process of its own, with a learner's file and with the package.

python -m learn.experiment LAB_FILE LEARNERS_FILE
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from learn.catalogue import LabEntry, LearnError, all_labs
from learn.learners_file import describe, load_function, own_line

if TYPE_CHECKING:
    from learn.lab import Measurement

_PRINTED = 2000  # characters
TIME_LIMIT = 120.0  # seconds; both runs take a few on one core, and importing PyTorch a few more


@dataclass(frozen=True)
class Findings:
    """What an experiment gave.

    Args:
        package: with the package's own function.
        file: with the learner's; empty where it raised an exception.
        problem: the exception, and the learner's line.
        visible: whether the symptom shows.
        printed: the beginning of what the learner's code printed.
    """

    package: Measurement
    file: Measurement = field(default_factory=dict)
    problem: str = ""
    visible: bool = True
    printed: str = ""


def run_apart(entry: LabEntry, path: Path, time_limit: float = TIME_LIMIT) -> Findings:
    """Run a lab's experiment in another process.

    Args:
        entry: the lab.
        path: the learner's file.
        time_limit: seconds.

    Raises:
        LearnError: the process does not end, or ends by itself.
    """
    try:
        process = subprocess.run(
            [sys.executable, "-m", "learn.experiment", str(entry.path), str(path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1"},
            timeout=time_limit,
        )
    except subprocess.TimeoutExpired:
        raise LearnError(
            f"the experiment with {path.name} is not done after {time_limit:g} seconds: is there an endless loop?"
        ) from None
    if process.returncode:
        last = (process.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise LearnError(f"the experiment ended with status {process.returncode}: {last}")
    return Findings(**json.loads(process.stdout.splitlines()[-1]))


def experiment(entry: LabEntry, path: Path) -> Findings:
    """Run a lab's experiment in this process.

    Args:
        entry: the lab.
        path: the learner's file.
    """
    lab = entry.load_lab()
    package, printed = lab.experiment(), io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            file = lab.experiment(load_function(path, lab.broken.__name__))
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # also SystemExit: the learner's code must not end the experiment
        problem = " · ".join(filter(None, [describe(error), own_line(error, path)]))
        return Findings(package, problem=problem, printed=printed.getvalue()[:_PRINTED])
    return Findings(package, file, visible=lab.visible(file, package), printed=printed.getvalue()[:_PRINTED])


def main(arguments: Sequence[str]) -> None:
    """Print what an experiment gives as a line of JSON."""
    entry = next(entry for entry in all_labs() if str(entry.path) == arguments[0])
    with contextlib.redirect_stdout(sys.stderr):
        findings = experiment(entry, Path(arguments[1]))
    print(json.dumps(vars(findings)))


if __name__ == "__main__":
    main(sys.argv[1:])
