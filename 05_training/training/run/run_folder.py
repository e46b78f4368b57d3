"""The folder of a run: one process at a time writes it.

Two runs in one folder would remove each other's checkpoints, and one of the two would be lost. So a run holds a lock on its
folder from its first line to its last.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType

from groundwork.locks import MACHINE, InUseError, ProcessLock
from training.parallel.workers import Workers

LOCK_FILE = ".lock"


class RunFolder:
    """A folder that this run alone writes, inside a `with` block.

    Args:
        path: the folder; it is made. If it is still empty at the end of the block, it is removed again.
        workers: the processes of the run, each of which must enter the block; the main one holds the lock.

    Raises:
        InUseError: on entering; another process writes the folder.
    """

    def __init__(self, path: Path | str, workers: Workers | None = None):
        self.path, self.workers = Path(path), workers or Workers()
        self._lock = ProcessLock(self.path / LOCK_FILE)
        self._made = False

    def __enter__(self) -> RunFolder:
        self.workers.on_main(self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.workers.is_main:
            return
        self._lock.release()
        if self._made:
            with contextlib.suppress(OSError):  # it is not empty, as a rule
                self.path.rmdir()

    def _take(self) -> None:
        self._made = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        left_by = self._lock.holder()
        if not self._lock.acquire():
            raise InUseError(
                f"{self.path} is in use by another {self._lock.holder() or 'process'}: "
                "wait until it has ended, or choose another folder (--output_dir)"
            )
        if not self._lock.supported:
            print(f"warning: the disk of {self.path} has no locks: start no second run in this folder")
        elif left_by and f" on {MACHINE} since" not in left_by:
            print(f"warning: {left_by} has not said that it ended: if it still writes {self.path}, stop this run")

    def set_aside(self) -> Path:
        """Give the folder and all that is in it another name, and hold an empty one; returns the other name."""
        names = (self.path.with_name(f"{self.path.name}.{number}") for number in range(1, 10_000))
        aside = next(name for name in names if not name.exists())
        earlier = self._lock
        if os.name == "nt":
            earlier.release()  # Windows does not rename a folder with an open file in it
        self.path.rename(aside)
        self._lock = ProcessLock(self.path / LOCK_FILE)
        self._take()
        earlier.path = aside / LOCK_FILE
        earlier.release()
        return aside
