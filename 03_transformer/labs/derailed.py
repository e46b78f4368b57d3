"""Lab 3.A: Right as a whole, and derailed when it decodes with a cache.

A small transformer with rotary positions has learned a text by heart. If it gets the whole text so far at each step, it
goes on as it should. If it gets one token at a time and a cache of earlier keys and values, it soon goes wrong. Training
never shows this.
"""

from __future__ import annotations

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from attention.multi_head_attention import KeyValueStore
from transformer.gpt_model import GPTModel


def hidden_states(
    self: GPTModel,
    token_ids: Tensor,
    store: KeyValueStore | None = None,
    positions: Tensor | None = None,
    allowed: Tensor | None = None,
) -> Tensor:
    """What the head reads: (batch, time) int64 → (batch, time, d_model).

    Args:
        self: the model.
        token_ids: (batch, time).
        store: keys and values of `store.length` earlier tokens; the given ones follow them.
        positions: (batch, time) position of each token in its text; None if all sequences begin in the first column.
        allowed: the whole mask; None means causal.

    Raises:
        ValueError: more tokens than `context_length`, stored ones included.
    """
    time = token_ids.shape[1]
    where: Tensor | slice
    if positions is None:
        stored = store.length if store is not None else 0
        if stored + time > self.config.context_length:
            raise ValueError(f"{stored + time} tokens do not fit the context length of {self.config.context_length}")
        where = slice(0, time)
    else:
        where = positions.clamp(min=0)  # padding stands before position 0
    x = self.token_embedding(token_ids)  # (batch, time, d_model)
    if self.position_embedding is not None:
        x = x + self.position_embedding.weight[where]
    if self.sinusoids is not None:
        x = x + self.sinusoids[where]
    x = self.dropout(x)
    rotate = self.rotary(where) if self.rotary is not None else None
    for block in self.blocks:
        if self.checkpoint_blocks and self.training:
            x = checkpoint(block, x, rotate, None, allowed, self.alibi, use_reentrant=False)
        else:
            x = block(x, rotate, store, allowed, self.alibi)
    if store is not None:
        store.advance(time)
    hidden: Tensor = self.final_norm(x)
    return hidden


# === Above: what the learner gets. Below: how it is graded, the experiment, and the answer. ===

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from learn.exercise import Case
from learn.lab import Lab, Measurement
from learn.small_runs import LETTERS, TEXT, continue_text, decode, encode, train
from transformer.config import GPTConfig

CONTEXT, STEPS, WRITTEN = 64, 90, 40
PROMPT = "Explicit is better"


class JoinedStore(KeyValueStore):
    """The simplest cache: it keeps keys and values by joining tensors."""

    def __init__(self) -> None:
        self.length = 0
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See `KeyValueStore`."""
        if layer in self.kept:
            keys = torch.cat([self.kept[layer][0], keys], dim=-2)
            values = torch.cat([self.kept[layer][1], values], dim=-2)
        self.kept[layer] = keys, values
        return keys, values

    def advance(self, num_tokens: int) -> None:
        """See `KeyValueStore`."""
        self.length += num_tokens


def _model(positions: Any = "rope") -> GPTModel:
    torch.manual_seed(0)
    return GPTModel(GPTConfig(len(LETTERS), CONTEXT, num_layers=2, num_heads=4, d_model=64, positions=positions))


def _detached(result: Tensor | None, arguments: Sequence[Any]) -> Tensor | None:
    return None if result is None else result.detach()


def cases() -> Iterator[Case]:
    """No cache; a cache, for each kind of positions; given positions; too many tokens."""
    ids = encode("Flat is better than nested.")[None]

    def cached(positions: str) -> list[Any]:
        store = JoinedStore()
        for layer in range(2):
            store.update(layer, torch.ones(1, 4, 5, 16), torch.full((1, 4, 5, 16), 0.1 * (layer + 1)))
        store.advance(5)
        return [_model(positions), ids[:, 5:8], store]

    yield Case("no cache", [_model(), ids], tolerance=1e-5, observe=_detached)
    for kind in ("rope", "learned", "sinusoidal", "alibi"):
        yield Case(f"three tokens after a cache of five, {kind}", cached(kind), tolerance=1e-5, observe=_detached)
    given = torch.arange(ids.shape[1])[None] + 3
    yield Case("positions that are given", [_model(), ids, None, given], tolerance=1e-5, observe=_detached)
    yield Case("more tokens than fit", [_model(), ids.repeat(1, 3)], raises=ValueError, observe=_detached)


@torch.no_grad()
def _with_cache(model: GPTModel) -> tuple[str, list[float]]:
    """Return the text it writes token by token, and how far its logits are from those without a cache at each step."""
    store, feed, seen = JoinedStore(), encode(PROMPT)[None], encode(PROMPT)[None]
    written, distances = [], []
    for _ in range(WRITTEN):
        logits = model(feed, store)[0, -1]
        distances.append((logits - model(seen)[0, -1]).abs().max().item())
        written.append(int(logits.argmax()))
        feed = logits.argmax()[None, None]
        seen = torch.cat([seen, feed], dim=1)
    return decode(written), distances


def measure() -> Measurement:
    """Learn the text by heart, and write with and without a cache."""
    model = _model()
    losses = train(model, encode(TEXT[:200]), STEPS, CONTEXT, batch_size=8)
    model.eval()
    written, distances = _with_cache(model)
    return {
        "loss of the last step": losses[-1],
        f"after {PROMPT!r}, without a cache": continue_text(model, PROMPT, WRITTEN, CONTEXT),
        "with a cache": written,
        "how far the logits differ, by token": distances,
        "largest difference": max(distances),
    }


def visible(file: Measurement, package: Measurement) -> bool:
    """The cache changes the logits by more than rounding."""
    return float(file["largest difference"]) > 0.1 > float(package["largest difference"])  # type: ignore[arg-type]


LAB = Lab(
    broken=hidden_states,
    reference="transformer.gpt_model:GPTModel.hidden_states",
    cases=cases,
    measure=measure,
    visible=visible,
    in_place=True,
    repair=[("        where = slice(0, time)\n", "        where = slice(stored, stored + time)\n")],
    hints=(
        "A cache must change nothing. At which token do the logits with and without it first differ? They do not at the "
        "first, because the whole prompt goes in at once.",
        "So what differs between a prompt that goes in at once and a single token after stored ones? Print `where` at "
        "each call.",
        "Every call begins to count at position 0. But the new tokens stand after the stored ones.",
    ),
    diagnosis=(
        "Never compare texts first: compare logits with a cache and without, token by token. The first agrees to "
        "rounding, the second does not. So the prompt is right and the step after it is wrong: look at what depends on how "
        "much is stored. `where` shows it: it is slice(0, 1) at each step. So every new token claims to be the first, "
        "and the rotary angles between it and the stored keys are wrong. Training has no cache and cannot show this."
    ),
)
