"""Lab 3.B: It learns which letters are frequent, and nothing more.

A transformer of six blocks is trained for a while on a short text. With the function below the loss falls to the entropy
of single characters, which one gets by counting them, and stays there. In the run beside it the loss keeps falling.
"""

from __future__ import annotations

from torch import Tensor

from attention.multi_head_attention import KeyValueStore, RotateHeads, ScoreBias
from transformer.transformer_block import TransformerBlock


def forward(
    self: TransformerBlock,
    x: Tensor,
    rotate: RotateHeads | None = None,
    store: KeyValueStore | None = None,
    allowed: Tensor | None = None,
    score_bias: ScoreBias | None = None,
) -> Tensor:
    """Attention, then feed-forward: (batch, time, d_model) → (batch, time, d_model).

    Args:
        self: the block. `self.pre_norm` says whether the norms come before attention and feed-forward, or after them.
        x: (batch, time, d_model), the residual stream.
        rotate: for attention, like the next three: `self.attention(x, rotate, store, allowed, score_bias)`.
        store: for attention.
        allowed: for attention.
        score_bias: for attention.
    """
    if self.pre_norm:
        x = self.dropout(self.attention(self.attention_norm(x), rotate, store, allowed, score_bias))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
    x = self.attention_norm(x + self.dropout(self.attention(x, rotate, store, allowed, score_bias)))
    out: Tensor = self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))
    return out


# === Above: what the learner gets. Below: how it is graded, the experiment, and the answer. ===

import torch
import torch.nn.functional as F

from learn.catalogue import load_exercise
from learn.lab import Lab, Measurement
from learn.small_runs import LETTERS, TEXT, encode, train
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

CONTEXT, STEPS, LAYERS = 24, 70, 6


def measure() -> Measurement:
    """Measure the gradients of a new model by block; then train it."""
    ids = encode(TEXT)
    model = GPTModel(GPTConfig(len(LETTERS), CONTEXT, num_layers=LAYERS, num_heads=2, d_model=32))
    window = ids[None, : CONTEXT + 1]
    F.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten()).backward()
    norms = [
        sum(float(p.grad.square().sum()) for p in block.parameters() if p.grad is not None) ** 0.5
        for block in model.blocks
    ]
    model.zero_grad()
    losses = train(model, ids, STEPS, CONTEXT)
    shares = torch.bincount(ids) / len(ids)
    return {
        "length of the gradient by block, at the start": norms,
        "loss": losses,
        "loss, mean of the last 5 steps": sum(losses[-5:]) / 5,
        "entropy of single characters": -float((shares * shares.log()).nansum()),
    }


def visible(file: Measurement, package: Measurement) -> bool:
    """It has learned no more than counting gives, but the package's model has."""
    name, counting = "loss, mean of the last 5 steps", float(file["entropy of single characters"])  # type: ignore[arg-type]
    return float(file[name]) > counting - 0.15 and float(package[name]) < counting - 0.3  # type: ignore[arg-type]


LAB = Lab(
    broken=forward,
    reference="transformer.transformer_block:TransformerBlock.forward",
    cases=load_exercise("transformer_block").cases,
    measure=measure,
    visible=visible,
    repair=[
        (
            "        x = self.dropout(self.attention(self.attention_norm(x), rotate, store, allowed, score_bias))\n",
            "        x = x + self.dropout(self.attention(self.attention_norm(x), rotate, store, allowed, score_bias))\n",
        ),
    ],
    hints=(
        "A loss at the entropy of single characters means that the output does not depend on the input. Where could the "
        "information about a token get lost on its way from the embedding to the head?",
        "Take one block and set the output weights of its attention and its feed-forward to zero. A pre-norm block is "
        "then the identity: block(x) should be x.",
        "Count the additions: each of the two orders of a block has two. One of them is missing.",
    ),
    diagnosis=(
        "The value at which the loss stops is the clue. It is the entropy of single characters, so the model says the same "
        "whatever it reads. (In the same way, a loss that stops at ln(vocabulary) means no learning at all, and a loss at "
        "the entropy of pairs means that attention does nothing.) A token reaches the head through the residual stream. "
        "One check finds where it is cut: with its output weights at zero a pre-norm block must return its input, and "
        "this one returns zeros. `x = attention(…)` overwrote the stream instead of adding to it."
    ),
)
