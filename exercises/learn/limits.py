"""Bounds on what a learner's code may take, so that an endless loop does not fill the memory before it is stopped."""

from __future__ import annotations

import io
import sys

import psutil

MEMORY_LIMIT = 512 << 20  # bytes beyond those of the process when it begins; right answers need a tenth of it
_KEPT = 2000  # characters of the learner's own output that are shown
_MOST_CHARACTERS = 1_000_000


class TooMuchOutput(BaseException):
    """Code prints without end. It is not an `Exception`, so that the loop that prints does not catch it."""


class BoundedText(io.TextIOBase):
    """A stream for text that keeps the beginning.

    Raises:
        TooMuchOutput: more than a million characters are written to it.
    """

    def __init__(self) -> None:
        self.kept = ""
        self._count = 0

    def writable(self) -> bool:
        """It is, always."""
        return True

    def write(self, text: str) -> int:
        """Keep the text if there is room, and count it."""
        self._count += len(text)
        if self._count > _MOST_CHARACTERS:
            raise TooMuchOutput(f"more than {_MOST_CHARACTERS:,} characters were printed: is there an endless loop?")
        self.kept += text[: _KEPT - len(self.kept)]
        return len(text)


def limit_this_process(num_bytes: int, seconds: float) -> None:
    """Let the system refuse more memory, and end the process if it computes much longer than it should.

    Whoever started the process watches it too (`Patience`). This bound is exact, and holds if nobody watches any more.
    Only Linux has such bounds for memory.

    Args:
        num_bytes: how much more memory than now the process may take.
        seconds: how long it may compute from its start on.
    """
    if sys.platform == "linux":
        import resource

        _bound(resource.RLIMIT_DATA, psutil.Process().memory_info().data + num_bytes)
        _bound(resource.RLIMIT_CPU, int(seconds) + 1)


def _bound(kind: int, most: int) -> None:
    if sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
