"""A learner's code runs in a process of its own, and is waited for by what it computes, not by the clock: a busy
machine is no endless loop."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil

LOOK_SECONDS = 0.5  # between two looks at a process
WAITING = 4  # times the seconds of computing may pass on the clock


def start_apart(module: str, *words: str) -> subprocess.Popen[str]:
    """Run a module in another Python, its output to be read as text.

    Args:
        module: such as `learn.grading_process`.
        words: of its command line.
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
    """Watches a process from a beginning.

    Args:
        process_id: of the process.
        seconds: that it may compute.
    """

    def __init__(self, process_id: int, seconds: float):
        self._process = psutil.Process(process_id)
        self.begin(seconds)

    def begin(self, seconds: float) -> None:
        """Count from now on."""
        self.seconds, self._computed, self._since = seconds, self._processor_time(), time.monotonic()

    def complaint(self) -> str:
        """Why not to wait any longer; nothing while there is no reason."""
        if self._processor_time() - self._computed > self.seconds:
            return f"still not done after {self.seconds:g} seconds of computing: is there an endless loop?"
        if time.monotonic() - self._since > WAITING * self.seconds:
            waited = f"{WAITING * self.seconds:g} seconds"
            return (
                f"still not done after {waited}, most of them idle: does it wait for what never comes? (Or try again.)"
            )
        return ""

    def _processor_time(self) -> float:
        try:
            times = self._process.cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return float(times.user + times.system)
