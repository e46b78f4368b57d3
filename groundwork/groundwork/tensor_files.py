"""Files of named tensors (safetensors): written with the usual permissions of new files, read with checks on weights."""

from __future__ import annotations

import math
import stat
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from groundwork.user_errors import UserError

WEIGHT_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


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


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Read a safetensors file in which every tensor is a weight.

    Raises:
        UserError: a tensor is not one; see `require_weight`.
        OSError, SafetensorError: the file cannot be read.
    """
    tensors: dict[str, Tensor] = load_file(path)
    for name, tensor in tensors.items():
        require_weight(tensor, name, path)
    return tensors


def require_weight(tensor: Tensor, name: str, where: Path | str) -> Tensor:
    """Check that a tensor from a file can be a weight: floating-point numbers, all finite.

    Check it before its type is changed. An integer, a truth value or a complex number would become a number of the
    model's type without a word, and 8-bit floats mean nothing without the scales that belong to them.

    Args:
        tensor: as the file holds it.
        name: its name in the file.
        where: the file or folder, for the message.

    Returns:
        The tensor.

    Raises:
        UserError: it is not a weight.
    """
    if tensor.dtype not in WEIGHT_TYPES:
        allowed = ", ".join(_name(dtype) for dtype in WEIGHT_TYPES)
        raise UserError(f"{where}: {name} has the type {_name(tensor.dtype)}; a weight is one of {allowed}")
    if not is_finite(tensor):
        wrong = int(tensor.isfinite().logical_not().sum())
        raise UserError(
            f"{where}: {wrong} of the {tensor.numel()} numbers of {name} are nan or infinite: the file is damaged, or the "
            "training that wrote it has diverged; use an earlier checkpoint"
        )
    return tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether no number is nan or infinite.

    A sum reads the numbers once and stores none. It is not finite if one of them is not, but large numbers may overflow
    in it too. Then each number is looked at.
    """
    total = tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32))
    return math.isfinite(total) or bool(tensor.isfinite().all())


def require_range(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Refuse numbers that become infinite in a smaller type: float16 ends at 65,504.

    Raises:
        UserError: there are such numbers.
    """
    largest = tensor.abs().max().item() if tensor.numel() else 0.0
    if largest > torch.finfo(dtype).max:
        raise UserError(
            f"{name} has the number {largest:g}, and {_name(dtype)} ends at {torch.finfo(dtype).max:g}: choose bf16 or f32"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
