"""Files of named tensors (safetensors), which others may read as far as any new file of yours."""

from __future__ import annotations

import stat
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file.

    The library makes it readable for its owner alone. A server in a container, or a colleague on the same machine, is
    somebody else.

    Args:
        tensors: contiguous, on the CPU, none of them sharing memory.
        path: of the file.
        metadata: text to keep with it.

    Raises:
        OSError, SafetensorError: it cannot be written.
    """
    path.touch()  # with the rights that this machine gives to new files
    rights = stat.S_IMODE(path.stat().st_mode)
    save_file(tensors, path, metadata=metadata)
    path.chmod(rights)
