"""Validation: the loss on text that no weight has seen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from training.data.batches import IGNORED
from training.data.token_files import Tokens
from training.loss import next_token_loss
from training.parallel.workers import Workers
from training.placement import Placement
from transformer.gpt_model import GPTModel

TOKENS_PER_BATCH = 8192

# Tensors of a batch → its mean loss.
MeanLoss = Callable[[dict[str, Tensor]], Tensor]


def total_loss(
    model: GPTModel,
    tokens: Tokens,
    placement: Placement,
    mean_loss: MeanLoss | None = None,
    workers: Workers | None = None,
) -> float:
    """Sum of -ln p over tokens[1:], in nats.

    The tokens are cut into windows of the context length, one after the other, so every token except
    the first is predicted exactly once. The first of a window is predicted from one token only;
    stage 8 shows what overlapping windows change.

    Args:
        model: put in evaluation mode during the call.
        tokens: (num_tokens,) ids, at least two.
        placement: where and how precisely.
        mean_loss: how to compute, where the model is wrapped for several processes.
        workers: processes that share the work.
    """
    context = model.config.context_length
    full, rest = divmod(len(tokens) - 1, context)
    arguments = (placement, mean_loss, workers)
    total = _sum_over_windows(model, tokens, [i * context for i in range(full)], context, *arguments)
    if rest:
        total += _sum_over_windows(model, tokens, [full * context], rest, *arguments)
    return total


def sampled_loss(
    model: GPTModel,
    tokens: Tokens,
    max_tokens: int,
    placement: Placement,
    mean_loss: MeanLoss | None = None,
    workers: Workers | None = None,
) -> float:
    """Mean of -ln p, in nats a token, over windows spread evenly through the tokens.

    A quick measurement during training. The beginning of a validation file would not do: it may be about one
    subject, and harder or easier than the rest.

    Args:
        model: put in evaluation mode during the call.
        tokens: (num_tokens,) ids, more than one context.
        max_tokens: about how many to predict; at least one window.
        placement: where and how precisely.
        mean_loss: how to compute, where the model is wrapped for several processes.
        workers: processes that share the work.
    """
    context = model.config.context_length
    full = (len(tokens) - 1) // context
    count = min(full, max(1, max_tokens // context))
    starts = [int(i) * context for i in np.linspace(0, full - 1, count)]
    return _sum_over_windows(model, tokens, starts, context, placement, mean_loss, workers) / (count * context)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside this context, the model is in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@torch.no_grad()
def _sum_over_windows(
    model: GPTModel,
    tokens: Tokens,
    starts: list[int],
    length: int,
    placement: Placement,
    mean_loss: MeanLoss | None,
    workers: Workers | None,
) -> float:
    workers = workers or Workers()
    plain = next_token_loss()
    batch_size = max(1, TOKENS_PER_BATCH // length)
    total = 0.0
    with evaluating(model):
        # Each process takes a batch in turn. FSDP needs all processes in every forward pass, so a process that
        # has no batch left computes on windows that do not count.
        for first in range(0, len(starts), batch_size * workers.world_size):
            mine = first + workers.rank * batch_size
            chosen = starts[mine : mine + batch_size]
            rows = [tokens[start : start + length + 1] for start in chosen or starts[:1]]
            ids = torch.from_numpy(np.stack(rows).astype(np.int64)).to(placement.device)  # (batch, length + 1)
            targets = ids[:, 1:] if chosen else torch.full_like(ids[:, 1:], IGNORED)
            tensors = {"inputs": ids[:, :-1], "targets": targets}
            with placement.autocast():
                mean = mean_loss(tensors) if mean_loss else plain(model, tensors)
            total += mean.item() * len(chosen) * length
    return workers.sum(total)[0]
