"""GPTQ: round the weights so that the outputs change as little as possible.

Rounding to nearest changes each weight as little as possible. But what counts is the output x Wᵀ for the inputs x that
occur. GPTQ (Frantar et al., 2022) rounds one column of W at a time. Then it changes the columns that are not rounded
yet, so that they compensate for the error, as far as their inputs are correlated:

    H = Xᵀ X over calibration inputs,   w_j ← w_j - (w_i - round(w_i)) · U_ij / U_ii   for j > i,

where U is the upper Cholesky factor of H⁻¹. The result has the layout of `Int4Linear` and runs at the same cost.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from groundwork.tensor_files import is_finite
from optimization.weights.quantization import INT4_GROUP, Int4Linear, from_levels, group_scales, to_levels
from transformer.gpt_model import GPTModel

# Added to the diagonal of H, relative to its mean, so that inputs that never occurred do not cause a division by zero.
DAMPING = 0.01


def gptq_levels(weight: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the integers of a weight, each one of 16 levels.

    Args:
        weight: (out, in).
        hessian: (in, in), the sum of x xᵀ over calibration inputs x.

    Returns:
        levels (out, in) from 0 to 15, scale (out, groups), zero (out, groups).

    Raises:
        ValueError: the rows are not a multiple of the group, or the Hessian has another size or is not finite.
    """
    size = weight.shape[1]
    if size % INT4_GROUP or hessian.shape != (size, size):
        raise ValueError(
            f"rows of {size} need a Hessian of {size} × {size}, and groups of {INT4_GROUP}; got {tuple(hessian.shape)}"
        )
    if not is_finite(hessian):
        raise ValueError("the activations that GPTQ calibrates on are not finite: the model's weights are too large")
    weight, hessian = weight.double().clone(), hessian.double().clone()
    hessian.diagonal().add_(DAMPING * hessian.diagonal().mean().clamp(min=1e-8))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    upper = torch.linalg.cholesky(inverse, upper=True)
    levels = torch.empty_like(weight)
    scales, zeros = [], []
    for start in range(0, weight.shape[1], INT4_GROUP):
        stop = start + INT4_GROUP
        scale, zero = group_scales(weight[:, start:stop].float())
        scales.append(scale)
        zeros.append(zero)
        errors = torch.empty_like(weight[:, start:stop])
        for i in range(start, stop):
            column = weight[:, i : i + 1]
            levels[:, i : i + 1] = to_levels(column, scale, zero)
            error = (column - from_levels(levels[:, i : i + 1], scale, zero)) / upper[i, i]
            weight[:, i:stop] -= error * upper[i : i + 1, i:stop]
            errors[:, i - start : i - start + 1] = error
        weight[:, stop:] -= errors @ upper[start:stop, stop:]  # the later groups change once for each group
    return levels, torch.cat(scales, dim=1), torch.cat(zeros, dim=1)


@torch.no_grad()
def quantize_blocks_gptq(model: GPTModel, calibration: Tensor) -> None:
    """Replace the linear layers of every block by 4-bit ones, in place, from the first block to the last.

    Each block is calibrated on the output of the quantized blocks before it, so that it compensates for their errors.

    Args:
        model: in float32.
        calibration: (sequences, time) ids; the text should be of the kind that the model is used for.
    """
    for block in model.blocks:
        linears = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
        hessians = {name: torch.zeros(linear.in_features, linear.in_features) for name, linear in linears.items()}

        def collect(name: str, sums: dict[str, Tensor], module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1]).float().cpu()
            sums[name].addmm_(x.T, x)

        hooks = [linear.register_forward_pre_hook(partial(collect, name, hessians)) for name, linear in linears.items()]
        for ids in calibration.split(8):
            model.hidden_states(ids.to(model.device))
        for hook in hooks:
            hook.remove()
        for name, linear in linears.items():
            quantized = Int4Linear(linear.out_features, linear.in_features, linear.bias is not None)
            quantized.store(*gptq_levels(linear.weight.cpu(), hessians[name]), linear.bias)
            block.set_submodule(name, quantized.to(model.device))
