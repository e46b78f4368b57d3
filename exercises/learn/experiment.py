"""Run a lab's experiment in its own process, with a learner's file and with the package.

python -m learn.experiment LAB_FILE LEARNERS_FILE
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from learn.catalogue import LabEntry, LearnError, all_labs
from learn.learners_file import describe, load_function, own_line
from learn.limits import MEMORY_LIMIT, BoundedText, limit_this_process
from learn.patience import LOOK_SECONDS, Patience, end_family, start_apart

if TYPE_CHECKING:
    from learn.lab import Measurement

TIME_LIMIT = 120.0  # seconds of computing; both runs take a few, and the import of PyTorch takes a few more


@dataclass(frozen=True)
class Findings:
    """What an experiment gave.

    Args:
        package: the measurement with the package's own function.
        file: the measurement with the learner's function; empty if it raised an exception.
        problem: the exception, and the learner's line.
        visible: whether the symptom is visible.
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
        time_limit: seconds of computing.

    Raises:
        LearnError: the process does not end, or ends by itself.
    """
    process = start_apart("learn.experiment", str(entry.path), str(path))
    patience = Patience(process.pid, time_limit, 4 * MEMORY_LIMIT)  # PyTorch's own part is in it
    while True:
        try:
            printed, errors = process.communicate(timeout=LOOK_SECONDS)
            break
        except subprocess.TimeoutExpired:
            if complaint := patience.complaint():
                end_family(process.pid)
                process.communicate()
                raise LearnError(f"the experiment with {path.name} is {complaint}") from None
    if process.returncode:
        last = (errors.strip().splitlines() or ["it said nothing"])[-1]
        raise LearnError(f"the experiment ended with status {process.returncode}: {last}")
    return Findings(**json.loads(printed.splitlines()[-1]))


def experiment(entry: LabEntry, path: Path) -> Findings:
    """Run a lab's experiment in this process.

    Args:
        entry: the lab.
        path: the learner's file.
    """
    lab = entry.load_lab()
    package, printed = lab.experiment(), BoundedText()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(BoundedText()):
            file = lab.experiment(load_function(path, lab.broken.__name__))
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # also SystemExit: the learner's code must not end the experiment
        problem = " · ".join(filter(None, [describe(error), own_line(error, path)]))
        return Findings(package, problem=problem, printed=printed.kept)
    return Findings(package, file, visible=lab.visible(file, package), printed=printed.kept)


def main(arguments: Sequence[str]) -> None:
    """Print the findings of an experiment as a line of JSON."""
    entry = next(entry for entry in all_labs() if str(entry.path) == arguments[0])
    limit_this_process(4 * MEMORY_LIMIT, 2 * TIME_LIMIT)
    with contextlib.redirect_stdout(sys.stderr):
        findings = experiment(entry, Path(arguments[1]))
    print(json.dumps(vars(findings)))


if __name__ == "__main__":
    main(sys.argv[1:])
