"""A text of 856 characters and a model that learns it in seconds: what the experiments of labs are made with."""

from __future__ import annotations

import codecs
import contextlib
import io
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

with contextlib.redirect_stdout(io.StringIO()):  # the module prints itself when it is imported
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
    """Train on windows of a text; the loss of each step, in nats a token.

    Args:
        model: (batch, time) int64 → (batch, time, vocabulary).
        ids: (tokens,) of the text.
        steps: how many.
        context_length: tokens of a window.
        lr: of AdamW, constant.
        batch_size: windows a step.
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
    """What a model writes behind a prompt, the most likely character each time.

    Args:
        model: as for `train`.
        prompt: characters of `LETTERS`.
        length: characters to write.
        context_length: the most that the model sees.
    """
    ids = encode(prompt).tolist()
    for _ in range(length):
        logits = model(torch.tensor([ids[-context_length:]]))
        ids.append(int(logits[0, -1].argmax()))
    return decode(ids[len(encode(prompt)) :])
