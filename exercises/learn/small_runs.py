"""A text of 856 characters and the training of small models on it, for the experiments of labs."""

from __future__ import annotations

import codecs
import contextlib
import io
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

with contextlib.redirect_stdout(io.StringIO()):  # the module prints its text when it is imported
    import this

TEXT = codecs.decode(this.s, "rot13")
LETTERS = sorted(set(TEXT))


def encode(text: str) -> Tensor:
    """(characters,) int64: each character's place in `LETTERS`."""
    return torch.tensor([LETTERS.index(letter) for letter in text])


def decode(ids: Iterable[int]) -> str:
    """The inverse of `encode`."""
    return "".join(LETTERS[index] for index in ids)


def train(
    model: nn.Module, ids: Tensor, steps: int, context_length: int, lr: float = 5e-3, batch_size: int = 16
) -> list[float]:
    """Train on windows of a text; return the loss of each step in nats per token.

    Args:
        model: (batch, time) int64 → (batch, time, vocabulary).
        ids: (tokens,) ids of the text.
        steps: how many steps.
        context_length: tokens in a window.
        lr: learning rate of AdamW, constant.
        batch_size: windows in each step.
    """
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=lr, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        starts = torch.randint(len(ids) - context_length, (batch_size,), generator=generator)
        windows = torch.stack([ids[start : start + context_length + 1] for start in starts])
        loss = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def continue_text(model: nn.Module, prompt: str, length: int, context_length: int) -> str:
    """What a model writes after a prompt, with the most likely character each time.

    Args:
        model: as for `train`.
        prompt: characters from `LETTERS`.
        length: how many characters to write.
        context_length: how many characters the model sees at most.
    """
    ids = encode(prompt).tolist()
    for _ in range(length):
        logits = model(torch.tensor([ids[-context_length:]]))
        ids.append(int(logits[0, -1].argmax()))
    return decode(ids[len(encode(prompt)) :])
