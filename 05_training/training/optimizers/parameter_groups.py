"""Which optimizer changes which parameter, and at which rate.

- AdamW ([`adamw.py`](adamw.py)): each number has its own step size.
- Muon ([`muon.py`](muon.py)): each matrix has an orthogonal step. It is meant for the matrices inside
  the blocks; embeddings, the head and vectors stay with AdamW.
- SGD ([`sgd.py`](sgd.py)): one step size for all.

Weight decay acts on the matrices inside the blocks. Norm weights, biases and embeddings do not decay:
it does not help to pull a norm's scale or a rare token's embedding to zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from groundwork.user_errors import require, require_choices
from training.optimizers.adamw import AdamW
from training.optimizers.muon import Muon
from training.optimizers.sgd import SGD
from training.parallel.workers import is_spread, spread_like


@dataclass(frozen=True)
class OptimizerConfig:
    """How gradients change the weights.

    Args:
        name: adamw for all weights; muon for the matrices inside the blocks, with adamw for the rest; or sgd.
        lr: peak learning rate of adamw or sgd.
        muon_lr: peak learning rate of muon.
        beta1: decay of adamw's mean of gradients; sgd's momentum.
        beta2: decay of adamw's mean of squared gradients.
        weight_decay: decoupled weight decay, on matrices inside the blocks only.
        grad_clip: largest norm of the gradient; a longer gradient is scaled down. 0 turns this off.
        fused: use PyTorch's single-kernel adamw where there is one. Otherwise the readable one is used, with the
            same numbers up to rounding.
        ema_decay: keep a moving average of the weights with this decay, validate with it, and save it as
            the model; null for none.
    """

    name: Literal["adamw", "muon", "sgd"] = "adamw"
    lr: float = 3e-3
    muon_lr: float = 0.02
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    fused: bool = True
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        require_choices(self, "optimizer")
        require(0.0 < self.lr < 1.0, f"optimizer.lr must be between 0 and 1, got {self.lr}")
        require(0.0 < self.muon_lr < 1.0, f"optimizer.muon_lr must be between 0 and 1, got {self.muon_lr}")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            require(0.0 <= value < 1.0, f"optimizer.{name} must be at least 0 and below 1, got {value}")
        require(self.weight_decay >= 0.0, f"optimizer.weight_decay must not be negative, got {self.weight_decay}")
        require(self.grad_clip >= 0.0, f"optimizer.grad_clip must not be negative, got {self.grad_clip}")
        require(
            self.ema_decay is None or 0.0 < self.ema_decay < 1.0,
            f"optimizer.ema_decay must be between 0 and 1, or null, got {self.ema_decay}",
        )


def build_optimizers(model: nn.Module, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """One optimizer, or two for Muon, for the parameters that are to be learned.

    Every group remembers its peak rate as `peak_lr`.

    Raises:
        ValueError: every parameter is frozen.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            inside_block = "blocks." in name and parameter.ndim == 2
            (matrices if inside_block else others).append(parameter)
    if not matrices and not others:
        raise ValueError("there is nothing to train: every parameter of the model is frozen")
    groups: list[dict[str, Any]] = [{"params": others, "weight_decay": 0.0}]
    if config.name != "muon":
        groups.append({"params": matrices, "weight_decay": config.weight_decay})
    groups = [group for group in groups if group["params"]]
    optimizers: list[torch.optim.Optimizer] = []
    if config.name == "sgd":
        optimizers.append(SGD(groups, lr=config.lr, momentum=config.beta1))
    elif groups:
        optimizers.append(_adamw(groups, config))
    if config.name == "muon" and matrices:
        optimizers.append(Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def _adamw(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    betas = (config.beta1, config.beta2)
    parameter = groups[0]["params"][0]
    if config.fused and parameter.device.type in ("cpu", "cuda"):
        return torch.optim.AdamW(groups, lr=config.lr, betas=betas, fused=True)
    return AdamW(groups, lr=config.lr, betas=betas)


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Set every group to `factor` times its peak rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def optimizer_state(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """What the optimizers remember, as `optimizer.PARAMETER.NAME`.

    Names are used, not positions: they are the same on one process and on many, and readable in a checkpoint.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"optimizer.{names[id(parameter)]}.{key}": value
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer_state(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], tensors: dict[str, Tensor]
) -> None:
    """Inverse of `optimizer_state`.

    Raises:
        KeyError: a parameter has no state in `tensors`.
        ValueError: a state has another shape than its parameter.
    """
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            name, _, what = key.removeprefix("optimizer.").rpartition(".")
            by_parameter.setdefault(name, {})[what] = tensor
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                state = by_parameter[names[id(parameter)]] if by_parameter else {}  # SGD may have none at all
                for what, tensor in state.items():
                    if tensor.ndim and tensor.shape != parameter.shape:
                        raise ValueError(f"{names[id(parameter)]}.{what} has the shape {tuple(tensor.shape)}")
                optimizer.state[parameter] = {what: _beside(parameter, tensor) for what, tensor in state.items()}


def _beside(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Move a state to its parameter: to its device, and into pieces if it is in pieces. A step count stays whole."""
    tensor = tensor.to(parameter.device)
    return spread_like(parameter, tensor) if tensor.ndim and not is_spread(tensor) else tensor
