"""Supervised fine-tuning (SFT): learn to answer by imitating answers.

The loss is the one of pretraining, taken only on the assistant's tokens. There is no training loop here:
`training.trainer` is given batches of conversations and this loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finetuning.data.chat_format import ChatFormat, ConversationError, EncodedConversation, fit_conversation
from finetuning.data.conversation_batches import pack_rows
from finetuning.data.instruction_data import Example
from tokenizer.interface import Tokenizer
from training.data.batches import IGNORED
from training.loss import linear_cross_entropy
from training.placement import Placement
from training.validation import evaluating
from transformer.gpt_model import GPTModel


def encode_examples(
    examples: Sequence[Example], template: ChatFormat, tokenizer: Tokenizer, context_length: int
) -> tuple[list[EncodedConversation], list[str]]:
    """Encode conversations for a model.

    Returns:
        The conversations, and for each one that does not fit the context, its number and the reason.
    """
    encoded, problems = [], []
    for number, example in enumerate(examples, start=1):
        try:
            encoded.append(fit_conversation(example.messages, template, tokenizer, context_length))
        except ConversationError as error:
            problems.append(f"conversation {number}: {error}")
    return encoded, problems


def conversation_loss(model: nn.Module, tensors: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the tokens that are to be learned, in nats. A `training.data.batches.LossFunction`.

    Args:
        model: a `GPTModel`.
        tensors: from `ConversationBatches`.
    """
    assert isinstance(model, GPTModel)
    hidden = model.hidden_states(tensors["inputs"], positions=tensors["positions"], allowed=tensors["allowed"])
    learned = tensors["targets"] != IGNORED  # most positions need no logits
    targets = tensors["targets"][learned]
    return linear_cross_entropy(hidden[learned], model.head.weight, targets, model.config.logit_softcap)


@torch.no_grad()
def mean_conversation_loss(
    model: GPTModel, conversations: Sequence[EncodedConversation], placement: Placement, batch_size: int = 8
) -> float:
    """Mean loss of the learned tokens of conversations, in nats a token."""
    total = weight = 0.0
    with evaluating(model), placement.autocast():
        for start in range(0, len(conversations), batch_size):
            chosen = conversations[start : start + batch_size]
            longest = max(len(conversation.ids) for conversation in chosen) - 1
            batch = pack_rows([[conversation] for conversation in chosen], longest).to(placement.device)
            total += conversation_loss(model, batch.tensors).item() * batch.weight
            weight += batch.weight
    return total / weight
