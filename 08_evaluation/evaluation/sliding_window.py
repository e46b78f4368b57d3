"""The loss on a whole text, with as much context for each token as one is willing to pay for.

A text is longer than the context, so it is cut into windows. Cut end to end, the first token of a
window is predicted from nothing, and the loss comes out too high. Windows that overlap give each
counted token more context: with a stride of 1 every token has the fullest context there is, at the
price of one forward pass a token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from neural_networks.bits_per_byte import bits_per_byte, perplexity
from tokenizer.interface import Tokenizer
from training.placement import Placement
from transformer.gpt_model import GPTModel


class EvaluationError(ValueError):
    """A text or stride that cannot be measured with."""


@dataclass(frozen=True)
class TextLoss:
    """How well a model predicts a text.

    Args:
        total_nats: sum of -ln p over the predicted tokens.
        predicted_tokens: how many those are.
        num_bytes: UTF-8 size of the text.
    """

    total_nats: float
    predicted_tokens: int
    num_bytes: int

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers."""
        return bits_per_byte(self.total_nats, self.num_bytes)

    @property
    def perplexity(self) -> float:
        """Per token; comparable between models that share a tokenizer."""
        return perplexity(self.total_nats / self.predicted_tokens)


@torch.inference_mode()
def measure_text(
    model: GPTModel, tokenizer: Tokenizer, text: str, placement: Placement, stride: int | None = None
) -> TextLoss:
    """Measure a model on a text.

    The text stands behind an end-of-text token where the tokenizer has one, so that its first token
    is predicted too. A character tokenizer without one leaves the first character out.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        text: any text.
        placement: device and precision.
        stride: tokens counted in each window after the first, from 1 to the context length; None for
            half the context.

    Raises:
        EvaluationError: the text is too short, or the stride impossible.
    """
    context = model.config.context_length
    stride = stride if stride is not None else max(1, context // 2)
    if not 1 <= stride <= context:
        raise EvaluationError(f"the stride must be between 1 and the context length of {context}, got {stride}")
    begin = [] if tokenizer.end_of_text_id is None else [tokenizer.end_of_text_id]
    ids = torch.tensor(begin + tokenizer.encode(text))
    if len(ids) < 2:
        raise EvaluationError("the text is too short: there is no token to predict")
    total, counted = 0.0, 1  # ids[:counted] are accounted for; the first is never predicted
    while counted < len(ids):
        # The first window counts all it predicts; each later one ends `stride` tokens further on.
        stop = min(len(ids), context + 1 if counted == 1 else counted + stride)
        start = max(0, stop - 1 - context)
        window = ids[start:stop].to(placement.device)
        with placement.autocast():
            logits = model(window[None, :-1])[0]  # (time, vocab)
        fresh = stop - counted
        total += F.cross_entropy(logits[-fresh:].float(), window[-fresh:], reduction="sum").item()
        counted = stop
    assert math.isfinite(total)
    return TextLoss(total, len(ids) - 1, len(text.encode("utf-8")))
