"""Validation: the loss on text that no weight has seen."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from training.placement import Placement
from transformer.gpt_model import GPTModel

TOKENS_PER_BATCH = 8192


def total_loss(model: GPTModel, tokens: np.ndarray, placement: Placement) -> float:
    """Sum of -ln p over tokens[1:], in nats.

    The tokens are cut into windows of the context length, one after the other, so every token but
    the first is predicted exactly once. The first of a window is predicted from one token only;
    stage 8 shows what overlapping windows change.

    Args:
        model: put in evaluation mode for the duration.
        tokens: (num_tokens,) ids, at least two.
        placement: where and how precisely.
    """
    context = model.config.context_length
    full, rest = divmod(len(tokens) - 1, context)
    total = _sum_over_windows(model, tokens, [i * context for i in range(full)], context, placement)
    if rest:
        total += _sum_over_windows(model, tokens, [full * context], rest, placement)
    return total


def sampled_loss(model: GPTModel, tokens: np.ndarray, max_tokens: int, placement: Placement) -> float:
    """Mean of -ln p, in nats a token, over windows spread evenly through the tokens.

    A quick look on the way. The beginning of a validation file would not do: it may be one subject,
    and harder or easier than the rest.

    Args:
        model: put in evaluation mode for the duration.
        tokens: (num_tokens,) ids, more than one context.
        max_tokens: about how many to predict; at least one window.
        placement: where and how precisely.
    """
    context = model.config.context_length
    full = (len(tokens) - 1) // context
    count = min(full, max(1, max_tokens // context))
    starts = [int(i) * context for i in np.linspace(0, full - 1, count)]
    return _sum_over_windows(model, tokens, starts, context, placement) / (count * context)


@torch.no_grad()
def _sum_over_windows(
    model: GPTModel, tokens: np.ndarray, starts: list[int], length: int, placement: Placement
) -> float:
    was_training = model.training
    model.eval()
    batch_size = max(1, TOKENS_PER_BATCH // length)
    total = 0.0
    for first in range(0, len(starts), batch_size):
        windows = np.stack([tokens[start : start + length + 1] for start in starts[first : first + batch_size]])
        ids = torch.from_numpy(windows.astype(np.int64)).to(placement.device)  # (batch, length + 1)
        with placement.autocast():
            logits = model(ids[:, :-1])
        total += F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="sum").item()
    model.train(was_training)
    return total
