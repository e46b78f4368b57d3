"""Causal attention in bfloat16 for training on a CPU. Blocks of queries skip nearly all masked scores.

On CPUs with bfloat16 matrix instructions, bfloat16 products are more than twice as fast as float32 ones.
But PyTorch's fused attention for CPUs gains nothing from these instructions, and its backward pass in bfloat16
is slower than in float32. The code here uses plain matrix products. Queries are handled one block at a time.
Block i needs no key after it, so nearly half of the score matrix is never computed:

    scores  = Q[i] K[:end]ᵀ / sqrt(d)       P = softmax(scores, masked in the last block of keys)
    O[i]    = P V[:end]

    dV[:end] += Pᵀ dO[i]                    dP = dO[i] V[:end]ᵀ
    dS       = P ∘ (dP - rowsum(P ∘ dP))    dQ[i] = dS K[:end] / sqrt(d)    dK[:end] += dSᵀ Q[i] / sqrt(d)

P is kept for the backward pass, time² / 2 numbers a head. So long contexts are left to the fused kernel,
which does not keep P (`flash_attention` shows how).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK = 128  # queries at a time: a multiple of the width of matrix units, and small compared with the context
MAX_TIME = 1024  # above it the kept probabilities need more memory than the other activations


def suits_blocked_attention(queries: Tensor, keys: Tensor) -> bool:
    """Whether training attention of these shapes is faster here than in the fused kernel.

    Args:
        queries: (batch, heads, time, head_dim).
        keys: (batch, kv_heads, time, head_dim).
    """
    device = queries.device.type
    if device != "cpu" or not torch.is_grad_enabled() or queries.shape[-2] > MAX_TIME or torch.compiler.is_compiling():
        return False
    return product_dtype(queries) == torch.bfloat16 and queries.shape[-2] == keys.shape[-2] and queries.requires_grad


def blocked_causal_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention, differentiable, in bfloat16.

    Args:
        queries: (batch, heads, time, head_dim).
        keys: (batch, kv_heads, time, head_dim); heads is a multiple of kv_heads.
        values: the shape of `keys`.

    Returns:
        (batch, heads, time, head_dim), bfloat16.
    """
    group = queries.shape[1] // keys.shape[1]
    if group > 1:
        keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
    output: Tensor = _BlockedCausalAttention.apply(queries.bfloat16(), keys.bfloat16(), values.bfloat16())
    return output


class _BlockedCausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        _, _, time, head_dim = queries.shape
        q = (queries * head_dim**-0.5).flatten(0, 1)  # (batch · heads, time, head_dim)
        k, v = keys.flatten(0, 1), values.flatten(0, 1)
        output = torch.empty_like(q)
        kept = []
        for start in range(0, time, BLOCK):
            end = min(start + BLOCK, time)
            scores = q[:, start:end] @ k[:, :end].mT  # (batch · heads, block, end)
            future = torch.ones(end - start, end - start, dtype=torch.bool, device=q.device).triu_(1)
            scores[:, :, start:].masked_fill_(future, -torch.inf)
            probabilities = scores.softmax(dim=-1)
            output[:, start:end] = probabilities @ v[:, :end]
            kept.append(probabilities)
        ctx.save_for_backward(q, k, v, *kept)
        return output.view(queries.shape)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, *kept = ctx.saved_tensors
        shape = grad_outputs[0].shape
        grad_output = grad_outputs[0].flatten(0, 1)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for index, probabilities in enumerate(kept):
            start, end = index * BLOCK, probabilities.shape[-1]
            grad_block = grad_output[:, start:end]
            grad_v[:, :end] += probabilities.mT @ grad_block
            grad_probabilities = grad_block @ v[:, :end].mT
            # P ∘ (dP - rowsum(P ∘ dP)) in one pass, summed in float32
            grad_scores = torch._softmax_backward_data(grad_probabilities, probabilities, -1, probabilities.dtype)
            grad_q[:, start:end] = grad_scores @ k[:, :end]
            grad_k[:, :end] += grad_scores.mT @ q[:, start:end]
        return (grad_q * shape[-1] ** -0.5).view(shape), grad_k.view(shape), grad_v.view(shape)


def product_dtype(x: Tensor) -> torch.dtype:
    """The precision in which a linear layer would compute with x here.

    Autocast chooses it for each layer automatically. Code that autocast cannot see into has to ask, and so
    has code that converts once for several layers.

    >>> with torch.autocast("cpu", dtype=torch.bfloat16):
    ...     product_dtype(torch.ones(1))
    torch.bfloat16
    """
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
