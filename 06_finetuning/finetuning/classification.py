"""The smallest example of fine-tuning: a language model that names the class of a text.

Take a trained model, put another head on it, and train that and the last blocks on labelled texts. What the
model learned by predicting the next token is most of what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetuning.data.shuffled_source import ShuffledSource
from training.data.batches import Batch
from training.validation import evaluating
from transformer.gpt_model import GPTModel
from transformer.layers import Linear


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


class LabelledBatches(ShuffledSource):
    """Draws texts with their classes.

    A batch holds `ids` (texts, longest), `lengths` (texts,) and `labels` (texts,).

    Args:
        texts: ids of each text.
        labels: class of each.
        seed: decides the order.

    Raises:
        ValueError: there are no texts, or not one label for each.
    """

    what = "text"

    def __init__(self, texts: Sequence[list[int]], labels: Sequence[int], seed: int):
        if len(texts) != len(labels):
            raise ValueError(f"{len(texts)} texts and {len(labels)} labels; there must be as many of both")
        super().__init__(len(texts), seed)
        self.texts, self.labels = texts, labels

    def make_batch(self, chosen: list[int]) -> Batch:
        """The tensors of some texts."""
        ids, lengths = pad_texts([self.texts[i] for i in chosen])
        labels = torch.tensor([self.labels[i] for i in chosen])
        return Batch({"ids": ids, "lengths": lengths, "labels": labels}, float(len(chosen)))


def classification_loss(model: nn.Module, tensors: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of the right class, in nats. A `training.data.batches.LossFunction`."""
    return F.cross_entropy(model(tensors["ids"], tensors["lengths"]), tensors["labels"])


def train_last_blocks_only(classifier: SequenceClassifier, num_blocks: int) -> None:
    """Freeze everything except the head, the last norm and the last blocks."""
    classifier.requires_grad_(False)
    blocks = list(classifier.model.blocks)
    for part in (classifier.output, classifier.model.final_norm, *blocks[len(blocks) - num_blocks :]):
        part.requires_grad_(True)


@torch.no_grad()
def classification_accuracy(
    classifier: SequenceClassifier, texts: Sequence[list[int]], labels: Sequence[int], batch_size: int = 32
) -> float:
    """Share of texts whose class is found."""
    right = 0
    with evaluating(classifier):
        for start in range(0, len(texts), batch_size):
            ids, lengths = pad_texts(texts[start : start + batch_size])
            scores = classifier(ids.to(classifier.model.device), lengths.to(classifier.model.device))
            right += int((scores.argmax(-1).cpu() == torch.tensor(labels[start : start + batch_size])).sum())
    return right / len(texts)
