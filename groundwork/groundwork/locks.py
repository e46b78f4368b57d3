"""Locks: what one program writes, no other program writes at the same time.

The operating system keeps a lock and takes it back when its process ends, however it ends. So the lock of a killed process
is free. A note beside the lock says who holds it, for the message to all others.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import time
from pathlib import Path

from filelock import FileLock, Timeout

from groundwork.user_errors import UserError

MACHINE = platform.node() or "this machine"
# What file systems without locks answer, such as some that are mounted over a network.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


class InUseError(UserError):
    """Another process holds the lock."""


class ProcessLock:
    """A lock that one process can hold.

    Args:
        path: the lock's file, in a folder that exists. It is removed with the lock; that of a killed process stays.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = FileLock(path)
        self.supported = True  # False where the file system has no locks

    @property
    def _note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.holder")

    def acquire(self, wait: bool = False) -> bool:
        """Take the lock; returns False if another process holds it.

        On a file system that has no locks, `supported` becomes False, and the lock counts as taken.

        Args:
            wait: until it is free.

        Raises:
            OSError: its file cannot be written.
        """
        try:
            self._lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self.supported = False
            return True
        note = f"process {os.getpid()} on {MACHINE} since {time.strftime('%Y-%m-%d %H:%M')}"
        with contextlib.suppress(OSError):  # a full disk; the lock is what counts
            self._note.write_text(note, encoding="utf-8")
        return True

    def holder(self) -> str:
        """Who holds the lock or left it, such as `process 812 on node0 since 2026-05-01 12:00`; "" if nobody said."""
        try:
            return self._note.read_text(encoding="utf-8", errors="replace")[:200].strip()
        except OSError:
            return ""

    def release(self) -> None:
        """Give the lock back, if this process holds it, and remove its files."""
        if self._lock.is_locked:
            for file in (self._note, self.path):  # while the lock is held; Windows removes the second one afterwards
                with contextlib.suppress(OSError):
                    file.unlink()
            self._lock.release()
