"""Cross-entropy of the next token, without ever holding all the logits.

The plain way makes a (tokens, vocab) matrix of logits, its log-softmax and its gradient: for 8 × 1024
tokens and GPT-2's 50,257 ids that is 1.6 GB each in float32. But logits of different tokens have
nothing to do with each other, so they can be made, used and dropped a chunk of tokens at a time,
gradient included:

    d loss / d logits = (softmax(logits) - one_hot(target)) / tokens

The gradients with respect to the hidden states and the head are kept for the backward pass; they are
small. Besides memory this saves time on a CPU, where a chunk stays in cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_TOKENS = 512


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None) -> Tensor:
        num_tokens = hidden.shape[0]
        # autograd.Function sees through autocast, so the cast that F.linear would make is made here.
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        hidden_low, weight_low = hidden.to(dtype), weight.to(dtype)
        grad_hidden = torch.empty_like(hidden_low)
        grad_weight = torch.zeros_like(weight)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, num_tokens, CHUNK_TOKENS):
            chunk = slice(start, start + CHUNK_TOKENS)
            target = targets[chunk, None]  # (chunk, 1)
            logits = (hidden_low[chunk] @ weight_low.T).float()  # (chunk, vocab)
            slope = None
            if softcap is not None:
                bounded = (logits / softcap).tanh()
                logits, slope = softcap * bounded, 1 - bounded.square()
            logits -= logits.amax(dim=-1, keepdim=True)  # exp cannot overflow
            at_target = logits.gather(1, target)
            exponentials = logits.exp_()
            sums = exponentials.sum(dim=-1, keepdim=True)
            total += (sums.log() - at_target).sum()
            # In place: softmax / tokens, then minus 1 / tokens at the target.
            grad_logits = exponentials.div_(sums * num_tokens)
            grad_logits.scatter_add_(1, target, torch.full_like(at_target, -1.0 / num_tokens))
            if slope is not None:
                grad_logits *= slope
            grad_low = grad_logits.to(dtype)
            grad_hidden[chunk] = grad_low @ weight_low
            grad_weight += grad_low.T @ hidden_low[chunk]
        ctx.save_for_backward(grad_hidden.to(hidden.dtype), grad_weight)
        return total / num_tokens

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad_outputs[0], grad_weight * grad_outputs[0], None, None


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None = None) -> Tensor:
    """Mean of -ln softmax(hidden @ weight.T)[target] over tokens.

    Args:
        hidden: (..., d_model), what the model's head reads.
        weight: (vocab, d_model), the head.
        targets: (...) int64.
        softcap: bounds the logits by softcap · tanh(logits / softcap); None for no bound.

    Returns:
        A scalar float32, in nats a token.
    """
    loss: Tensor = _LinearCrossEntropy.apply(
        hidden.flatten(0, -2), weight, targets.flatten(), softcap
    )
    return loss
