"""Gradient clipping: a bound on the length of a step (Pascanu et al., 2013)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from training.parallel.workers import whole


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The length of all gradients taken as one vector, in float32; 0 where there are none."""
    norms = [torch.linalg.vector_norm(p.grad.float()) for p in parameters if p.grad is not None]
    if not norms:
        return torch.zeros(())
    # FSDP keeps a piece of each gradient on each rank; the norm of the whole needs all of them.
    return torch.linalg.vector_norm(torch.stack([whole(norm) for norm in norms]))


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients by one factor so that their norm is at most `max_norm`.

    The direction stays the same. Clipping each number separately would change it.

    Args:
        parameters: whose gradients to scale in place; one tensor is one parameter.
        max_norm: 0 leaves them as they are and only measures.

    Returns:
        The norm before clipping. If a gradient is inf or nan, so is the norm, and nothing was scaled.

    Raises:
        ValueError: a negative norm, which would turn the step around.
    """
    if not max_norm >= 0.0:
        raise ValueError(f"max_norm must not be negative, got {max_norm}; 0 only measures")
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    norm = gradient_norm(parameters).item()
    if max_norm and norm > max_norm and norm < float("inf"):
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(max_norm / (norm + 1e-6))
    return norm
