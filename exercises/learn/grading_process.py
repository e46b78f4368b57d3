"""Grade in other processes, so that a learner's file changes nothing but its own grade.

The command starts a grader. For each exercise the grader computes what is expected; it never sees a learner's file. Then
it starts a process that loads the file, asks it the questions, and ends. So whatever the file leaves behind, an endless
loop, or a crash reaches neither the command nor the next exercise. On Linux that process is forked from the grader, with
PyTorch and the package imported. This is safe, because the grader uses one thread and no GPU. Elsewhere each file waits
for an import of PyTorch.

python -m learn.grading_process SECONDS EXERCISE_FILE LEARNERS_FILE …
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from learn.catalogue import Entry, LearnError, all_exercises, all_labs
from learn.exercise import Exercise
from learn.grade import Grade
from learn.learners_file import describe
from learn.limits import MEMORY_LIMIT, limit_this_process
from learn.patience import LOOK_SECONDS, Patience, end_children, end_family, start_apart

TIME_LIMIT = 30.0  # seconds of computing for one exercise; the checks of a right answer take one or two
START_LIMIT = 120.0  # seconds for the first import of PyTorch and the package

_ALONE = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"),
    **dict.fromkeys(("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"), ""),
}
_loaded: dict[Path, Exercise] = {}  # by file; a forked process finds here what the grader has loaded


def grade_apart(tasks: Sequence[tuple[Entry, Path]], time_limit: float = TIME_LIMIT) -> Iterator[tuple[Entry, Grade]]:
    """Grade learners' files one after the other, each in its own process.

    Args:
        tasks: exercises, each with the learner's file.
        time_limit: seconds of computing for each.

    Yields:
        Each exercise with its grade, in order.

    Raises:
        LearnError: the grader itself ends.
    """
    if not tasks:
        return
    words = [str(word) for entry, path in tasks for word in (entry.path, path)]
    grader = start_apart("learn.grading_process", str(time_limit), *words, environment=_ALONE)
    assert grader.stdout is not None and grader.stderr is not None
    errors: deque[str] = deque(maxlen=1)
    reader = threading.Thread(target=errors.extend, args=(grader.stderr,), daemon=True)
    reader.start()
    try:
        for entry, _ in tasks:
            line = grader.stdout.readline()
            if not line:
                reader.join(1)
                raise LearnError(f"the grader ended with status {grader.wait()}: {''.join(errors).strip()}")
            yield entry, Grade(**json.loads(line))
    finally:
        end_family(grader.pid)
        grader.wait()


def main(arguments: Sequence[str]) -> None:
    """Grade files that are named in pairs, the exercise's file and the learner's; print a line of JSON for each."""
    from learn.expectations import expectations  # imports PyTorch, which the command does not need

    # Everything else that prints goes to the error stream, so this stream has only the lines written here.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    seconds, *paths = arguments
    entries = {str(entry.path): entry for entry in [*all_exercises(), *all_labs()]}
    for exercise_path, learners_path in zip(paths[0::2], paths[1::2], strict=True):
        entry = entries[exercise_path]
        try:
            expected = pickle.dumps(expectations(_load(entry)))
            grade = _graded(entry, Path(learners_path), expected, float(seconds))
        except Exception as error:  # the package does not work, perhaps because somebody changed it
            grade = Grade("failed", problem=f"the exercise itself does not work: {describe(error)}")
        print(json.dumps(grade.to_json()), file=out, flush=True)


def _load(entry: Entry) -> Exercise:
    if entry.path not in _loaded:
        exercise = entry.load()
        exercise.resolve()  # imports the package, which is not part of the learner's time
        _loaded[entry.path] = exercise
    return _loaded[entry.path]


def _graded(entry: Entry, path: Path, expected: bytes, seconds: float) -> Grade:
    """Grade a file in a process of its own, and end that process if it takes too much."""
    import torch

    safe = sys.platform == "linux" and not torch.accelerator.is_available()  # a device that no variable has hidden
    context: Any = multiprocessing.get_context("fork" if safe else "spawn")
    connection, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, entry, path, expected, seconds))
    process.start()
    theirs.close()  # so that the end of the process is the end of the stream
    patience = Patience(process.pid, START_LIMIT)
    try:
        while True:
            wait([connection, process.sentinel], LOOK_SECONDS)
            ended, message = not process.is_alive(), b""  # what it sent before it ended is read first
            with contextlib.suppress(EOFError, OSError):
                message = connection.recv_bytes() if connection.poll() else b""
            if message == b"begin":
                patience.begin(seconds, MEMORY_LIMIT)
            elif message:
                return Grade(**json.loads(message))
            elif ended:
                return Grade("failed", problem=f"Python itself ended with {_status(process.exitcode or 0)}")
            elif complaint := patience.complaint():
                return Grade("failed", problem=complaint)
    finally:
        end_family(process.pid)
        process.join()
        connection.close()


def _status(code: int) -> str:
    return f"status {code}" if code >= 0 else f"signal {-code}: {signal.strsignal(-code)}"


def _answer(connection: Connection, entry: Entry, path: Path, expected: bytes, seconds: float) -> None:
    """Grade a learner's file, in this process."""
    from learn.grading import grade_file

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command ends this process
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # what is written there by something other than Python goes nowhere
        os.dup2(null, stream)
    exercise, wanted = _load(entry), pickle.loads(expected)
    limit_this_process(MEMORY_LIMIT, 2 * seconds + START_LIMIT)
    connection.send_bytes(b"begin")
    grade = grade_file(exercise, path, wanted)
    connection.send_bytes(json.dumps(grade.to_json()).encode())
    end_children(os.getpid())
    os._exit(0)  # whatever threads the file has started


if __name__ == "__main__":
    main(sys.argv[1:])
