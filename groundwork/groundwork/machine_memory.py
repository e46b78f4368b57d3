"""How much memory this process may use, to compare with what a file asks for before anything is allocated."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_limit() -> int:
    """Bytes of the machine, or less where a container (control groups 2 or 1) or the shell (`ulimit -v`) allows less."""
    limits = [psutil.virtual_memory().total]
    for file in CONTAINER_LIMITS:
        try:
            limits.append(int(file.read_text(encoding="ascii")))
        except (OSError, ValueError):  # there is no such file, or it says "max"
            continue
    if sys.platform != "win32":
        import resource

        allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
        if allowed != resource.RLIM_INFINITY:
            limits.append(allowed)
    return min(limits)


def in_gib(num_bytes: float) -> str:
    """Bytes in GiB, for a message."""
    return f"{num_bytes / 2**30:,.1f} GiB"
