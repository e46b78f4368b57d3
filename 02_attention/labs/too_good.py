"""Lab 2.A: The loss falls to nearly nothing, and the text is garbage.

One layer of attention with a sliding window learns a short text. With the function below the loss falls far below what
the same layer reaches in the run beside it. What the model then writes has nothing to do with the text.
"""

from __future__ import annotations

import torch
from torch import Tensor


def visible_keys(query_positions: Tensor, key_positions: Tensor, window: int | None = None, sinks: int = 0) -> Tensor:
    """The rule that every mask for causal models follows, by position in the text.

    Args:
        query_positions: (..., queries) integers.
        key_positions: (..., keys) integers.
        window: how many positions a query sees, its own included; None for all before it.
        sinks: how many first positions of the text stay visible with any window.

    Returns:
        Boolean (..., queries, keys).

    Raises:
        ValueError: a window below 1 or fewer than 0 sinks.
    """
    if window is not None and window < 1:
        raise ValueError(f"a window must hold at least the token itself: it must be 1 or more, got {window}")
    if sinks < 0:
        raise ValueError(f"the number of sinks must not be negative, got {sinks}")
    ends = query_positions[..., :, None] + 1  # the positions before this one are visible
    keys = key_positions[..., None, :]
    allowed = keys <= ends
    if window is not None:
        allowed = allowed & ((keys >= ends - window) | (keys < sinks))
    return torch.as_tensor(allowed)


# === Above: what the learner gets. Below: how it is graded, the experiment, and the answer. ===

from torch import nn

from attention.multi_head_attention import MultiHeadAttention
from learn.catalogue import load_exercise
from learn.lab import Lab, Measurement
from learn.small_runs import LETTERS, TEXT, continue_text, encode, train

CONTEXT, WINDOW = 24, 16
STEPS = 150
PROMPT = "Beautiful is better"


class OneLayer(nn.Module):
    """Embeddings of characters and positions, one layer of attention with a window, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.characters, self.positions = nn.Embedding(len(LETTERS), 64), nn.Embedding(CONTEXT, 64)
        self.attention = MultiHeadAttention(64, 4, window=WINDOW)
        self.head = nn.Linear(64, len(LETTERS))

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, time) → (batch, time, characters)."""
        x = self.characters(ids) + self.positions.weight[: ids.shape[1]]
        logits: Tensor = self.head(x + self.attention(x))
        return logits


def measure() -> Measurement:
    """Train, and write."""
    model = OneLayer()
    losses = train(model, encode(TEXT), STEPS, CONTEXT, lr=1e-2)
    return {
        "loss": losses,
        "loss of the last step": losses[-1],
        f"after {PROMPT!r}": continue_text(model, PROMPT, 40, CONTEXT),
    }


def visible(file: Measurement, package: Measurement) -> bool:
    """The loss is far too low."""
    name = "loss of the last step"
    return float(file[name]) < 0.5 * float(package[name])  # type: ignore[arg-type]


LAB = Lab(
    broken=visible_keys,
    reference="attention.masks:visible_keys",
    cases=load_exercise("visible_keys").cases,
    measure=measure,
    visible=visible,
    repair=[("    allowed = keys <= ends\n", "    allowed = keys < ends\n")],
    hints=(
        "A loss that is too good to be true means that the answer is in the question. How could position i know the "
        "character at position i + 1?",
        "Draw it: draw_mask(visible_keys(torch.arange(5), torch.arange(5))), from attention.masks. Or change the last "
        "character of an input and see which outputs change: only the last one may.",
        "`ends` is the first position that is not visible. Is it visible?",
    ),
    diagnosis=(
        "The training loss is far below what the task allows, and generation gives nonsense. In training, the model sees "
        "what it should predict; in generation there is nothing to see yet. One line of measurement decides: change the "
        "input at position i and see which outputs change. If one before i changes, that is a leak. A mask drawn for "
        "five positions shows the same: ones on the first diagonal above the main one."
    ),
)
