"""Tensors of which each process holds a piece (`DTensor`), and those that are whole.

PyTorch's module for them takes most of a second to import, so it is left until there is one: generating text
and serving read checkpoints, too.
"""

from __future__ import annotations

from torch import Tensor


def is_spread(tensor: Tensor) -> bool:
    """Whether this is a `DTensor`, of which the process holds a piece."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """A tensor brought together; where it is spread, every process must call this."""
    return tensor.full_tensor() if is_spread(tensor) else tensor  # type: ignore[attr-defined]


def spread_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor in the pieces that a parameter is in, or as it is if that is whole.

    Args:
        parameter: spread or not.
        tensor: whole, of the same shape, and the same in every process.
    """
    if not is_spread(parameter):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)  # type: ignore[attr-defined]
