"""Files of named tensors (safetensors) with the usual permissions of new files."""

from __future__ import annotations

import stat
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file.

    The library lets only the owner read it. But a server in a container, or a colleague on the same machine, may be
    another user. So the file gets the permissions of any new file.

    Args:
        tensors: contiguous, on the CPU, and without shared memory.
        path: the file to write.
        metadata: text to store in the file.

    Raises:
        OSError, SafetensorError: it cannot be written.
    """
    path.touch()  # with the permissions that this machine gives to new files
    rights = stat.S_IMODE(path.stat().st_mode)
    save_file(tensors, path, metadata=metadata)
    path.chmod(rights)
