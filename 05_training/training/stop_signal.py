"""An orderly stop: a signal is noted, and the loop ends after the step it is in."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Inside this context, Ctrl-C and SIGTERM are noted; ask the callable whether one came. A second one interrupts."""
    requested = False

    def note(number: int, frame: object) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True

    previous: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    except ValueError:  # not the main thread (a notebook's, say), where signals cannot be caught
        pass
    try:
        yield lambda: requested
    finally:
        for caught, handler in previous.items():
            signal.signal(caught, handler)
