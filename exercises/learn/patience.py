"""Run a learner's code in its own process, and limit the time that it computes, not the time on the clock.

A slow run on a busy machine must not look like an endless loop.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil

LOOK_SECONDS = 0.5  # between two looks at a process
WAITING = 4  # the time on the clock may be so many times the limit on computing


def start_apart(module: str, *words: str) -> subprocess.Popen[str]:
    """Run a module in another Python process; its output is read as text.

    Args:
        module: name of the module, such as `learn.grading_process`.
        words: arguments of its command line.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1"},
    )


class Patience:
    """Watch how long a process computes.

    Args:
        process_id: id of the process.
        seconds: how long it may compute.
    """

    def __init__(self, process_id: int, seconds: float):
        self._process = psutil.Process(process_id)
        self.begin(seconds)

    def begin(self, seconds: float) -> None:
        """Count from now on."""
        self.seconds, self._computed, self._since = seconds, self._processor_time(), time.monotonic()

    def complaint(self) -> str:
        """Say why not to wait any longer; an empty text means that waiting is fine."""
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
