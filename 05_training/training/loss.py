"""Cross-entropy of the next token, and the same without ever holding all the logits.

    cross-entropy       -ln softmax(z)[target] = lse(z) - z[target],   lse(z) = ln Σ exp(z)
    label smoothing     a share ε of the target is spread over the vocabulary (Szegedy et al., 2016):
                        lse(z) - (1 - ε) z[target] - ε mean(z)
    z-loss              + c · lse(z)², which keeps logits from growing to sizes that low precision cannot
                        hold (de Brébisson & Vincent, 2016; Chowdhery et al., 2022, section 5)

The plain way makes a (tokens, vocab) matrix of logits, its log-softmax and its gradient: for 8 × 1024
tokens and GPT-2's 50,257 ids that is 1.6 GB each in float32. But the logits of different tokens are
independent of each other. So they can be computed, used and dropped for one chunk of tokens at a time,
gradient included:

    d loss / d z = (softmax(z) · (1 + 2 c · lse(z)) - (1 - ε) one_hot(target) - ε / vocab) / tokens

The gradients with respect to the hidden states and the head are kept for the backward pass; they are
small. Chunks save memory, and on a CPU they also save time, because a chunk stays in cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention.cpu_attention import product_dtype
from groundwork.user_errors import require
from training.data.batches import IGNORED, LossFunction
from transformer.gpt_model import GPTModel

CHUNK_TOKENS = 512


@dataclass(frozen=True)
class LossConfig:
    """What is minimised besides the cross-entropy; validation measures the cross-entropy alone.

    Args:
        label_smoothing: share of each target that is spread over the vocabulary.
        z_loss: weight of the squared log of the softmax's denominator; 1e-4 is usual.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        require(
            0.0 <= self.label_smoothing < 1.0,
            f"loss.label_smoothing must be at least 0 and below 1, got {self.label_smoothing}",
        )
        require(self.z_loss >= 0.0, f"loss.z_loss must not be negative, got {self.z_loss}")


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, z_loss: float = 0.0) -> Tensor:
    """Cross-entropy of each token, from all the logits at once.

    Args:
        logits: (..., vocab) of any floating type; computed in float32 at least. The vocabulary is the last axis, as in
            the model; PyTorch's function wants it as the second axis.
        targets: (...) int64, `IGNORED` where nothing is to be predicted.
        label_smoothing: ε of the module's text.
        z_loss: c of the module's text.

    Returns:
        (...) in nats, 0 where the target is ignored.

    Raises:
        ValueError: targets and logits do not have the same leading axes.

    >>> cross_entropy(torch.zeros(2, 4), torch.tensor([3, IGNORED]))  # ln 4 for a guess among four
    tensor([1.3863, 0.0000])
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"targets {tuple(targets.shape)} need logits {(*targets.shape, 'vocab')}, got {tuple(logits.shape)}"
        )
    logits = logits if logits.dtype == torch.float64 else logits.float()
    counted = targets != IGNORED
    # Only `IGNORED` becomes 0: any other negative target is a mistake, and gather reports it.
    at_target = logits.gather(-1, targets.masked_fill(~counted, 0)[..., None])[..., 0]
    largest = logits.amax(dim=-1, keepdim=True)  # subtracted below, so that exp cannot overflow
    lse = (logits - largest).exp().sum(dim=-1).log() + largest[..., 0]
    losses = lse - at_target
    if label_smoothing:
        losses = lse - (1 - label_smoothing) * at_target - label_smoothing * logits.mean(dim=-1)
    if z_loss:
        losses = losses + z_loss * lse.square()
    return losses.masked_fill(~counted, 0.0)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        softcap: float | None,
        label_smoothing: float,
        z_loss: float,
    ) -> Tensor:
        counted = targets != IGNORED
        targets = targets.masked_fill(~counted, 0)  # any other negative target is reported by gather
        num_tokens = counted.sum().clamp(min=1)  # stays a tensor: reading it would make a GPU wait
        # An autograd.Function makes its own casts: the one that F.linear would make under autocast is made here.
        dtype = product_dtype(hidden)
        hidden_low, weight_low = hidden.to(dtype), weight.to(dtype)
        grad_hidden = torch.empty_like(hidden_low)
        # Summed over the chunks, in float32 even where FSDP hands over the weight in bfloat16.
        grad_weight = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(targets), CHUNK_TOKENS):
            chunk = slice(start, start + CHUNK_TOKENS)
            target = targets[chunk, None]  # (chunk, 1)
            kept = counted[chunk, None].float() / num_tokens  # the weight of each token's loss
            logits = (hidden_low[chunk] @ weight_low.T).float()  # (chunk, vocab)
            slope = None
            if softcap is not None:
                bounded = (logits / softcap).tanh()
                logits, slope = softcap * bounded, 1 - bounded.square()
            largest = logits.amax(dim=-1, keepdim=True)
            logits -= largest  # exp cannot overflow
            at_target = logits.gather(1, target)
            mean = logits.mean(dim=-1, keepdim=True) if label_smoothing else 0.0
            exponentials = logits.exp_()
            sums = exponentials.sum(dim=-1, keepdim=True)
            lse = sums.log()  # of the logits minus the largest, which cancels out except in the z-loss
            losses = lse - (1 - label_smoothing) * at_target - label_smoothing * mean
            factor = kept / sums
            if z_loss:
                whole = lse + largest
                losses = losses + z_loss * whole.square()
                factor = factor * (1 + 2 * z_loss * whole)
            total += (losses * kept).sum()
            # In place: the gradient of the module's text.
            grad_logits = exponentials.mul_(factor)
            grad_logits.scatter_add_(1, target, kept * (label_smoothing - 1))
            if label_smoothing:
                grad_logits -= kept * (label_smoothing / logits.shape[1])
            if slope is not None:
                grad_logits *= slope
            grad_low = grad_logits.to(dtype)
            grad_hidden[chunk] = grad_low @ weight_low
            grad_weight += grad_low.T @ hidden_low[chunk]
        ctx.save_for_backward(grad_hidden.to(hidden.dtype), grad_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad_outputs[0], grad_weight * grad_outputs[0], None, None, None, None


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Tensor:
    """Mean cross-entropy of hidden @ weight.T over the tokens that are not ignored.

    Args:
        hidden: (..., d_model), what the model's head reads.
        weight: (vocab, d_model), the head.
        targets: (...) int64, `IGNORED` where nothing is to be predicted.
        softcap: bounds the logits by softcap · tanh(logits / softcap); None for no bound.
        label_smoothing: ε of the module's text.
        z_loss: c of the module's text.

    Returns:
        A scalar float32, in nats a token; 0 where every token is ignored.

    Raises:
        ValueError: targets and hidden states do not have the same leading axes.
    """
    if hidden.shape[:-1] != targets.shape:
        raise ValueError(
            f"targets {tuple(targets.shape)} need hidden {(*targets.shape, 'd_model')}, got {tuple(hidden.shape)}"
        )
    hidden, targets = hidden.flatten(0, -2), targets.flatten()
    if not torch.is_grad_enabled():
        total, num_tokens = _sum_without_gradients(hidden, weight, targets, softcap, label_smoothing, z_loss)
        return total / num_tokens
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, softcap, label_smoothing, z_loss)
    return loss


def _sum_without_gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None, label_smoothing: float, z_loss: float
) -> tuple[Tensor, Tensor]:
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for start in range(0, len(targets), CHUNK_TOKENS):
        chunk = slice(start, start + CHUNK_TOKENS)
        logits = F.linear(hidden[chunk], weight).float()
        if softcap is not None:
            logits = softcap * (logits / softcap).tanh()
        total += cross_entropy(logits, targets[chunk], label_smoothing, z_loss).sum()
    return total, (targets != IGNORED).sum().clamp(min=1)


def next_token_loss(config: LossConfig | None = None) -> LossFunction:
    """The loss function of pretraining: mean cross-entropy of `targets` after `inputs`.

    Args:
        config: what is added to the cross-entropy while training; validation measures it alone.
    """
    config = config or LossConfig()

    def loss(model: nn.Module, tensors: dict[str, Tensor]) -> Tensor:
        assert isinstance(model, GPTModel)
        hidden = model.hidden_states(tensors["inputs"], allowed=tensors.get("allowed"))
        smoothing, z_loss = (config.label_smoothing, config.z_loss) if model.training else (0.0, 0.0)
        return linear_cross_entropy(
            hidden, model.head.weight, tensors["targets"], model.config.logit_softcap, smoothing, z_loss
        )

    return loss
