"""Supervised fine-tuning (SFT): learn to answer by imitating answers.

The loss is the one of pretraining, taken on the assistant's tokens alone. There is no training loop here:
`training.trainer` is given batches of conversations and this loss.

The smallest example of fine-tuning is here too: a classifier, which is the model with another head
that reads the last token's hidden state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetuning.chat_format import ChatTemplate, ConversationError, EncodedConversation, fit_conversation
from finetuning.conversation_batches import pack_rows
from finetuning.instruction_tuning import Example
from tokenizer.interface import Tokenizer
from training.batches import Batch
from training.loss import IGNORED, linear_cross_entropy
from training.placement import Placement
from transformer.gpt_model import GPTModel
from transformer.layers import Linear


def encode_examples(
    examples: Sequence[Example], template: ChatTemplate, tokenizer: Tokenizer, context_length: int
) -> tuple[list[EncodedConversation], list[str]]:
    """Encode conversations for a model.

    Returns:
        The conversations, and for each that does not fit the context its number and the reason.
    """
    encoded, problems = [], []
    for number, example in enumerate(examples, start=1):
        try:
            encoded.append(fit_conversation(example.messages, template, tokenizer, context_length))
        except ConversationError as error:
            problems.append(f"conversation {number}: {error}")
    return encoded, problems


def conversation_loss(model: nn.Module, tensors: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the tokens that are to be learned, in nats. A `training.batches.LossFunction`.

    Args:
        model: a `GPTModel`.
        tensors: of `ConversationBatches`.
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
    was_training = model.training
    model.eval()
    total = weight = 0.0
    for start in range(0, len(conversations), batch_size):
        chosen = conversations[start : start + batch_size]
        longest = max(len(conversation.ids) for conversation in chosen) - 1
        batch = pack_rows([[conversation] for conversation in chosen], longest).to(placement.device)
        with placement.autocast():
            total += conversation_loss(model, batch.tensors).item() * batch.weight
        weight += batch.weight
    model.train(was_training)
    return total / weight


# --- classification ---------------------------------------------------------------------------


class SequenceClassifier(nn.Module):
    """A model that reads a text and names its class, or gives it a score.

    The last token has seen the whole text, so its hidden state is what the new head reads.

    Args:
        model: a trained language model; fine-tuned with the head unless it is frozen.
        num_outputs: classes; 1 for a score, as a reward model needs.
    """

    def __init__(self, model: GPTModel, num_outputs: int):
        super().__init__()
        self.model = model
        self.config, self.blocks = model.config, model.blocks
        self.output = Linear(model.config.d_model, num_outputs, device=model.device)
        nn.init.zeros_(self.output.weight)  # every class equally likely at first

    def forward(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """Scores of each class.

        Args:
            token_ids: (batch, time), padded on the right with anything.
            lengths: (batch,) tokens of each text.

        Returns:
            (batch, num_outputs).
        """
        hidden = self.model.hidden_states(token_ids)  # causal: padding on the right is never read
        return self.output(hidden[torch.arange(len(lengths), device=hidden.device), lengths - 1])


def pad_texts(texts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids of texts as one tensor (batch, longest), padded on the right, and their lengths."""
    lengths = torch.tensor([len(text) for text in texts])
    ids = torch.zeros(len(texts), int(lengths.max()), dtype=torch.long)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = torch.tensor(text)
    return ids, lengths


class LabelledBatches:
    """Draws texts with their classes, in a new order each epoch. A `training.batches.BatchSource`.

    Args:
        texts: ids of each text.
        labels: class of each.
        seed: of the order.
    """

    def __init__(self, texts: Sequence[list[int]], labels: Sequence[int], seed: int):
        if not texts or len(texts) != len(labels):
            raise ValueError(f"{len(texts)} texts and {len(labels)} labels; there must be as many of both, and some")
        self.texts, self.labels, self.seed, self.drawn = texts, labels, seed, 0

    def next_batch(self, batch_size: int) -> Batch:
        """The next texts."""
        chosen = []
        for number in range(self.drawn, self.drawn + batch_size):
            epoch, index = divmod(number, len(self.texts))
            chosen.append(int(np.random.default_rng([self.seed, epoch]).permutation(len(self.texts))[index]))
        self.drawn += batch_size
        ids, lengths = pad_texts([self.texts[i] for i in chosen])
        labels = torch.tensor([self.labels[i] for i in chosen])
        return Batch({"ids": ids, "lengths": lengths, "labels": labels}, float(batch_size))

    def state_dict(self) -> dict[str, int]:
        """One integer."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at the exact text."""
        self.drawn = int(state["drawn"])


def classification_loss(model: nn.Module, tensors: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of the right class, in nats. A `training.batches.LossFunction`."""
    return F.cross_entropy(model(tensors["ids"], tensors["lengths"]), tensors["labels"])
