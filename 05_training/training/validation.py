"""Validation: the loss on text that no weight has seen."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from training.placement import Placement
from transformer.gpt_model import GPTModel

TOKENS_PER_BATCH = 8192


@torch.no_grad()
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
    was_training = model.training
    model.eval()
    inputs, targets = tokens[:-1], tokens[1:]
    full = len(inputs) // context
    batch_size = max(1, TOKENS_PER_BATCH // context)
    pieces = [(i * context, min(batch_size, full - i), context) for i in range(0, full, batch_size)]
    if len(inputs) % context:
        pieces.append((full * context, 1, len(inputs) % context))
    total = 0.0
    for start, rows, length in pieces:
        stop = start + rows * length
        x = torch.from_numpy(inputs[start:stop].astype(np.int64)).view(rows, length).to(placement.device)
        y = torch.from_numpy(targets[start:stop].astype(np.int64)).to(placement.device)
        with placement.autocast():
            logits = model(x)
        total += F.cross_entropy(logits.flatten(0, 1).float(), y, reduction="sum").item()
    model.train(was_training)
    return total
