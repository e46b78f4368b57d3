"""How likely a model finds given tokens. Every measure of this stage needs this one forward pass.

Perplexity, benchmark answers, calibration and the loss at each position are all sums, means or comparisons of
ln p(token | tokens before it). Sequences of unequal length share a batch, with padding on the right. A
causal model at one position does not see what comes after it, so the padding changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundwork.user_errors import UserError
from training.placement import Placement
from transformer.gpt_model import GPTModel

MAX_LOGITS = 1 << 25  # numbers in the logits of one batch: 128 MiB in float32


@dataclass(frozen=True)
class SequenceScores:
    """What a model says about the last tokens of one sequence, each predicted from all before it.

    Args:
        nats: (counted,) -ln p of each token.
        top_ids: (counted,) the most likely token there.
        top_probabilities: (counted,) the probability of that token.
    """

    nats: NDArray[np.float64]
    top_ids: NDArray[np.int64]
    top_probabilities: NDArray[np.float64]


@torch.inference_mode()
def score_sequences(
    model: GPTModel, sequences: Sequence[Sequence[int]], counted: Sequence[int], placement: Placement
) -> list[SequenceScores]:
    """Score the ends of many sequences, in batches of similar length.

    Args:
        model: in evaluation mode.
        sequences: ids; each has at most `context_length` + 1, since the last one is predicted and not read.
        counted: how many tokens to score at the end of each sequence, from 1 to its length - 1.
        placement: device and precision.

    Returns:
        One score for each sequence, in the given order.

    Raises:
        UserError: a sequence is too long or has nothing to predict from.
    """
    context = model.config.context_length
    for ids, count in zip(sequences, counted, strict=True):
        if not 1 <= count < len(ids) <= context + 1:
            raise UserError(
                f"{count} tokens at the end of {len(ids)} cannot be scored: it needs at least one before them, and "
                f"the model reads at most {context}"
            )
    scores: list[SequenceScores | None] = [None] * len(sequences)
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))  # the largest batch comes first
    while order:
        longest = len(sequences[order[0]]) - 1
        batch_size = max(1, MAX_LOGITS // (longest * model.token_embedding.num_embeddings))
        batch, order = order[:batch_size], order[batch_size:]
        padded = torch.zeros(len(batch), longest + 1, dtype=torch.long)
        for row, i in enumerate(batch):
            padded[row, : len(sequences[i])] = torch.as_tensor(sequences[i])
        padded = padded.to(placement.device)
        with placement.autocast():
            hidden = model.hidden_states(padded[:, :-1])  # (batch, longest, d_model)
        for row, i in enumerate(batch):
            end = len(sequences[i]) - 1
            with placement.autocast():
                logits = model.logits(hidden[row, end - counted[i] : end])  # (counted, vocab)
            scores[i] = _compare(logits.float(), padded[row, end + 1 - counted[i] : end + 1])
    return [score for score in scores if score is not None]


def _compare(logits: Tensor, targets: Tensor) -> SequenceScores:
    log_probabilities = logits.log_softmax(dim=-1)
    top, top_ids = log_probabilities.max(dim=-1)
    nats = -log_probabilities.gather(1, targets[:, None])[:, 0]
    return SequenceScores(nats.double().cpu().numpy(), top_ids.cpu().numpy(), top.double().exp().cpu().numpy())
