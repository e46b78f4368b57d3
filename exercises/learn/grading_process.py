"""Grade in a separate process, so that an endless loop or a crash ends that process and not the command.

The command line of the child says what to grade. The child prints a line of JSON when it begins with an exercise
and another when it is done. The parent waits for each line, but not for ever.

python -m learn.grading_process EXERCISE_FILE LEARNERS_FILE …
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from learn.catalogue import Entry, all_exercises, all_labs
from learn.grade import Grade
from learn.patience import LOOK_SECONDS, Patience, start_apart

TIME_LIMIT = 30.0  # seconds of computing for one exercise; the checks of a right answer take one or two
START_LIMIT = 120.0  # seconds for the first import of PyTorch and the package


def grade_apart(tasks: Sequence[tuple[Entry, Path]], time_limit: float = TIME_LIMIT) -> Iterator[tuple[Entry, Grade]]:
    """Grade learners' files one after the other, in another process.

    Args:
        tasks: exercises, each with the learner's file.
        time_limit: seconds of computing for each.

    Yields:
        Each exercise with its grade, in order.
    """
    left = list(tasks)
    while left:
        for grade in _grade_until_trouble(left, time_limit):
            yield left.pop(0)[0], grade


def _grade_until_trouble(tasks: Sequence[tuple[Entry, Path]], time_limit: float) -> Iterator[Grade]:
    """Grade in order; end after an exercise that had to be stopped."""
    words = [str(word) for entry, path in tasks for word in (entry.path, path)]
    process = start_apart("learn.grading_process", *words)
    assert process.stdout is not None and process.stderr is not None
    lines: queue.Queue[str] = queue.Queue()
    errors: list[str] = []
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    threading.Thread(target=lambda stream: errors.extend(stream), args=(process.stderr,), daemon=True).start()
    try:
        for _ in tasks:
            patience = Patience(process.pid, START_LIMIT)
            while True:
                try:
                    line = lines.get(timeout=LOOK_SECONDS)
                except queue.Empty:
                    if complaint := patience.complaint():
                        yield Grade("failed", problem=complaint)
                        return
                    continue
                if not line:  # the process has ended by itself
                    status = process.wait()
                    last = errors[-1].strip() if errors else "it said nothing"
                    yield Grade("failed", problem=f"Python itself ended with status {status}: {last}")
                    return
                message = json.loads(line)
                if "begin" in message:
                    patience.begin(time_limit)
                    continue
                yield Grade(**message)
                break
    finally:
        process.kill()
        process.wait()


def _read(stream: IO[str], lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")


def main(arguments: Sequence[str]) -> None:
    """Grade files that are named in pairs: the exercise's file and the learner's file."""
    from learn.grading import grade_file  # imports PyTorch, which the parent does not need

    # Everything else that prints goes to the error stream, so this stream has only the lines written here.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    entries = {str(entry.path): entry for entry in [*all_exercises(), *all_labs()]}
    for exercise_path, learners_path in zip(arguments[0::2], arguments[1::2], strict=True):
        exercise = entries[exercise_path].load()
        exercise.resolve()  # imports the package, which is not part of the learner's time
        print(json.dumps({"begin": exercise_path}), file=out, flush=True)
        grade = grade_file(exercise, Path(learners_path))
        print(json.dumps(grade.to_json()), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
