"""Run a learner's code in its own process, and limit the time that it computes, not the time on the clock.

A slow run on a busy machine must not look like an endless loop.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping

import psutil

LOOK_SECONDS = 0.2  # between two looks at a process
WAITING = 4  # the time on the clock may be so many times the limit on computing


def start_apart(module: str, *words: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Run a module in another Python process; its output is read as text.

    Args:
        module: name of the module, such as `learn.grading_process`.
        words: arguments of its command line.
        environment: variables that differ from those of this process.
    """
    own = {"PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, **own, **(environment or {})},
    )


def end_children(process_id: int) -> None:
    """End the processes that a process has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process_id).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def end_family(process_id: int) -> None:
    """End a process and those that it has started."""
    end_children(process_id)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(process_id).kill()


class Patience:
    """Watch how long a process computes and how much memory it takes.

    Args:
        process_id: id of the process.
        seconds: how long it may compute.
        num_bytes: how much more memory than at the beginning it may take; None for any amount.
    """

    def __init__(self, process_id: int, seconds: float, num_bytes: int | None = None):
        self._process = psutil.Process(process_id)
        self.begin(seconds, num_bytes)

    def begin(self, seconds: float, num_bytes: int | None = None) -> None:
        """Count from now on."""
        self.seconds, self._computed, self._since = seconds, self._processor_time(), time.monotonic()
        self.num_bytes, self._held = num_bytes, self._memory()

    def complaint(self) -> str:
        """Say why not to wait any longer; an empty text means that waiting is fine."""
        if self.num_bytes is not None and self._memory() - self._held > self.num_bytes:
            return f"stopped because it takes more than {self.num_bytes >> 20} MiB of memory: is there an endless loop?"
        if self._processor_time() - self._computed > self.seconds:
            return f"still not done after {self.seconds:g} seconds of computing: is there an endless loop?"
        if time.monotonic() - self._since > WAITING * self.seconds:
            waited = f"{WAITING * self.seconds:g} seconds"
            return (
                f"still not done after {waited}, and idle most of the time: does it wait for something that never comes? "
                "(Or try again.)"
            )
        return ""

    def _processor_time(self) -> float:
        try:
            times = self._process.cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return float(times.user + times.system)

    def _memory(self) -> int:
        try:
            return int(self._process.memory_info().rss)
        except psutil.NoSuchProcess:
            return 0
