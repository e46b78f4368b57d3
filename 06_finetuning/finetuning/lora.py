"""LoRA: fine-tune a large matrix by learning a small correction to it.

    W' = W + (alpha / rank) · B A        A: (rank, in), B: (out, rank)    (Hu et al., 2021)

W is frozen; only A and B are trained. With rank 8, a 768 × 768 matrix has 12,288 numbers to learn in
place of 589,824. B starts at zero, so that the model starts as it was.
"""

from __future__ import annotations

import math
from fnmatch import fnmatch

import torch
from torch import Tensor, nn


class LoRALinear(nn.Module):
    """A frozen linear layer and its low-rank correction.

    Args:
        base: the layer to correct; frozen here.
        rank: of the correction, from 1 to the smaller side of the matrix.
        alpha: the correction is scaled by alpha / rank, so that changing the rank does not change
            its size.
        dropout: probability of dropping an input of the correction while training.

    Raises:
        ValueError: the rank does not fit the matrix.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0):
        super().__init__()
        largest = min(base.in_features, base.out_features)
        if not 1 <= rank <= largest:
            raise ValueError(
                f"the LoRA rank must be between 1 and {largest} for a "
                f"{base.out_features} × {base.in_features} matrix, got {rank}"
            )
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # as nn.Linear, and peft
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out)."""
        # Right to left: (x Aᵀ) has only `rank` numbers, where B A would be a full matrix.
        return self.base(x) + self.scale * (self.dropout(x) @ self.lora_a.T @ self.lora_b.T)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain linear layer with the correction added in: nothing extra to compute any more."""
        merged = nn.Linear(
            self.base.in_features,
            self.base.out_features,
            bias=self.base.bias is not None,
            device=self.base.weight.device,
            dtype=self.base.weight.dtype,
        )
        merged.weight.copy_(self.base.weight + self.scale * (self.lora_b @ self.lora_a))
        if self.base.bias is not None:
            merged.bias.copy_(self.base.bias)
        return merged


def add_lora(
    model: nn.Module, rank: int, alpha: float, pattern: str = "blocks.*.attention.*", dropout: float = 0.0
) -> list[str]:
    """Freeze a model and give the linear layers whose name matches a correction to train.

    Args:
        model: changed in place.
        rank: see `LoRALinear`.
        alpha: see `LoRALinear`.
        pattern: of module names, with * for anything.
        dropout: see `LoRALinear`.

    Returns:
        Names of the layers that were wrapped.

    Raises:
        ValueError: no layer matches, or the rank does not fit one. The model is unchanged then.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    chosen = [name for name in linears if fnmatch(name, pattern)]
    if not chosen:
        raise ValueError(f"no linear layer is called {pattern!r}; there are: {', '.join(linears)}")
    frozen_before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        wrapped = {name: LoRALinear(linears[name], rank, alpha, dropout) for name in chosen}
    except ValueError:
        for parameter, requires_grad in frozen_before:
            parameter.requires_grad_(requires_grad)
        raise
    model.requires_grad_(False)
    for name, layer in wrapped.items():
        model.set_submodule(name, layer)
    return chosen


def merge_lora(model: nn.Module) -> None:
    """Replace every `LoRALinear` by the plain layer it amounts to, and unfreeze the model."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoRALinear):
            model.set_submodule(name, module.merged())
    model.requires_grad_(True)
