"""Which parameter is followed by which optimizer, at which rate.

- AdamW (Loshchilov & Hutter, 2019): each number has its own step size.
- Muon (Jordan et al., 2024): the momentum of a whole matrix is replaced by the nearest orthogonal
  one, so that rare directions move as much as frequent ones. It is meant for the matrices inside
  the blocks; embeddings, the head and vectors stay with AdamW.

Weight decay acts on the matrices inside the blocks. Norm weights, biases and embeddings are left
alone: pulling a norm's scale or a rare token's embedding to zero helps nobody.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from training.config import OptimizerConfig


def build_optimizers(model: nn.Module, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """One optimizer, or two for Muon. Every group remembers its peak rate as `peak_lr`."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside_block = name.startswith("blocks.") and parameter.ndim == 2
        (matrices if inside_block else others).append(parameter)
    groups: list[dict[str, Any]] = [{"params": others, "weight_decay": 0.0}]
    if config.name == "adamw":
        groups.append({"params": matrices, "weight_decay": config.weight_decay})
    fused = next(model.parameters()).device.type in ("cpu", "cuda")  # one pass over all the state
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=fused)
    ]
    if config.name == "muon":
        optimizers.append(
            torch.optim.Muon(matrices, lr=config.muon_lr, momentum=0.95, weight_decay=config.weight_decay)
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def set_learning_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Set every group to `factor` times its peak rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
