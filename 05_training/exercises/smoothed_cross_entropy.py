"""Exercise 5.1: Cross-entropy for training."""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.batches import IGNORED


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, z_loss: float = 0.0) -> Tensor:
    """Cross-entropy of each token, with the two additions that training uses.

        lse  = ln Σ exp z
        loss = lse - (1 - ε) z[target] - ε mean(z) + c · lse²

    ε is label smoothing (Szegedy et al., 2016). c is the weight of the z-loss, which stops logits from growing to sizes
    that low precision cannot hold. If both are 0, this is the plain cross-entropy, also where a logit is -inf.

    Args:
        logits: (tokens, vocab) z of any floating type; compute in float32, or in float64 if they are float64.
        targets: (tokens,) int64; IGNORED (-100) where nothing should be predicted.
        label_smoothing: ε.
        z_loss: c.

    Returns:
        (tokens,) in nats, differentiable; 0 where the target is IGNORED, whatever the logits are.
    """
    raise NotImplementedError("Exercise 5.1: a loss for each token")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

import math
from collections.abc import Callable, Iterator
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """A guess; a batch; ignored; large; smoothing; z-loss; bfloat16; nan and -inf."""
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    targets, some = torch.tensor([0, 5, 2, 2]), torch.tensor([0, IGNORED, 2, 2])
    yield Case("four equal logits: ln 4", [torch.zeros(1, 4), torch.tensor([3])])
    yield Case("a batch of four", [logits.clone(), targets.clone()])
    yield Case("one of them ignored", [logits.clone(), some.clone()])
    yield Case("logits of ±1,000", [logits * 1000, targets.clone()], tolerance=1e-5)
    yield Case("label smoothing of 0.1", [logits.clone(), targets.clone(), 0.1], tolerance=1e-5)
    yield Case("a z-loss of 0.01", [3 + logits, targets.clone(), 0.0, 0.01], tolerance=1e-5)
    yield Case("both of them, and an ignored target", [3 + logits, some.clone(), 0.1, 0.01], tolerance=1e-5)
    yield Case("logits in bfloat16", [logits.bfloat16(), targets.clone()], tolerance=1e-4)
    broken = logits.clone()
    broken[1] = math.nan
    broken.requires_grad_()  # so that its gradient is not asked for: it may be nan
    yield Case("an ignored target whose logits are nan", [broken, some.clone()])
    banned = logits.clone()
    banned[:, 4] = -math.inf
    yield Case("a logit of -inf, which is no target; no smoothing", [banned, targets.clone()])


def _loss(logits: Tensor, targets: Tensor, label_smoothing: float, z_loss: float, **wrong: bool) -> Tensor:
    z = logits if logits.dtype == torch.float64 or wrong.get("low") else logits.float()
    if wrong.get("always_float32"):
        z = logits.float()
    if wrong.get("detached"):
        z = z.detach()
    lse = z.exp().sum(dim=-1).log() if wrong.get("overflowing") else z.logsumexp(dim=-1)
    if wrong.get("one_shift"):
        lse = (z - z.max()).exp().sum(dim=-1).log() + z.max()
    ignored = targets == IGNORED
    if wrong.get("targets_changed"):
        targets[ignored] = 0
    at_target = z.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    spread = z.sum(dim=-1) if wrong.get("summed") else z.mean(dim=-1)
    kept = 1.0 if wrong.get("not_taken_off") else 1 - label_smoothing
    if wrong.get("over_others"):
        spread = (z.sum(dim=-1) - at_target) / (z.shape[-1] - 1)
    losses = lse - at_target
    if label_smoothing or wrong.get("always_smoothed"):
        losses = lse - kept * at_target - label_smoothing * spread
    if wrong.get("z_on_ignored"):
        return losses.masked_fill(ignored, 0.0) + z_loss * lse.square()
    losses = losses + z_loss * (lse if wrong.get("not_squared") else lse.square())
    if wrong.get("multiplied"):
        return losses * ~ignored
    return losses if wrong.get("not_ignored") else losses.masked_fill(ignored, 0.0)


def _mistaken(name: str) -> Callable[..., Any]:
    def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, z_loss: float = 0.0) -> Tensor:
        return _loss(logits, targets, label_smoothing, z_loss, **{name: True})

    return cross_entropy


def _mean(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, z_loss: float = 0.0) -> Tensor:
    return _loss(logits, targets, label_smoothing, z_loss).mean()


EXERCISE = Exercise(
    stub=cross_entropy,
    reference="training.loss:cross_entropy",
    cases=cases,
    differentiable=True,
    hints=(
        "The formula needs three numbers for each token: lse, the logit at the target, and the mean logit.",
        "logits.logsumexp(dim=-1) does not overflow. logits.gather(1, targets[:, None])[:, 0] picks the logits of the targets. "
        "-100 is not an index, so clamp the targets to 0 there and set the loss to 0 afterwards.",
        "losses = lse - at_target; if eps: losses = losses + eps * (at_target - z.mean(-1)); losses = losses + c * "
        "lse.square(); return losses.masked_fill(targets == IGNORED, 0.0).",
    ),
    mistakes=(
        Mistake(_mean, "one loss for each token is asked for, not their mean"),
        Mistake(_mistaken("not_ignored"), "where the target is IGNORED the loss is 0"),
        Mistake(_mistaken("overflowing"), "exp overflows: use logsumexp, or subtract the largest logit first"),
        Mistake(_mistaken("summed"), "label smoothing spreads ε over the vocabulary: the mean logit, not the sum"),
        Mistake(
            _mistaken("over_others"),
            "ε is spread over the whole vocabulary, the target included, not only over the others",
        ),
        Mistake(_mistaken("z_on_ignored"), "where the target is IGNORED the z-loss is 0 too"),
        Mistake(_mistaken("not_taken_off"), "the target loses what is spread: (1 - ε) z[target]"),
        Mistake(_mistaken("not_squared"), "the z-loss is c · lse²"),
        Mistake(_mistaken("low"), "bfloat16 has only three digits: compute in float32"),
        Mistake(
            _mistaken("one_shift"), "subtract the largest logit of each token: beside it others become exp(-1000) = 0"
        ),
        Mistake(_mistaken("targets_changed"), "`targets` belongs to the caller: clamp it into a new tensor"),
        Mistake(_mistaken("always_float32"), "logits in float64 stay in float64"),
        Mistake(_mistaken("multiplied"), "nan · 0 is nan: set the loss to 0 by masked_fill or torch.where"),
        Mistake(_mistaken("always_smoothed"), "0 · (-inf) is nan: leave the mean out if ε is 0"),
        Mistake(_mistaken("detached"), "a loss is there to train with: gradients must flow back to the logits"),
    ),
)
