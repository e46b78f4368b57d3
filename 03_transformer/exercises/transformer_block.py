"""Exercise 3.5: A transformer block, pre-norm and post-norm."""

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
    """Attention, then feed-forward, each added to the residual stream.

    Pre-norm (`self.pre_norm` is True): each part reads the normalised stream, and its output is added to the stream
    itself, which is not normalised. Post-norm: each part reads the stream as it is, and the sum is normalised.

    Args:
        self: the block. Its parts are `self.attention_norm`, `self.attention` (called with x and the four arguments
            below, in this order), `self.feed_forward_norm`, `self.feed_forward`, and `self.dropout`, which is applied to
            the output of each part before it is added.
        x: (batch, time, d_model), the residual stream.
        rotate: for attention.
        store: for attention.
        allowed: for attention.
        score_bias: for attention.

    Returns:
        (batch, time, d_model).
    """
    raise NotImplementedError("Exercise 3.5: two parts and a residual stream")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator
from typing import Any

import torch

from learn.exercise import Case, Exercise, Mistake
from transformer.config import GPTConfig


class _Store:
    """A store that has seen two tokens."""

    length = 2

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return old and new keys and values."""
        return torch.cat([keys[:, :, :2].cos(), keys], dim=2), torch.cat([values[:, :, :2].cos(), values], dim=2)

    def advance(self, num_tokens: int) -> None:
        """Do nothing: this store does not count."""


def _bias(num_queries: int, num_keys: int) -> Tensor:
    return -torch.arange(num_keys - 1, -1, -1, dtype=torch.float64)


def cases() -> Iterator[Case]:
    """Pre-norm; post-norm; arguments of attention; dropout."""

    def block(**settings: Any) -> TransformerBlock:
        torch.manual_seed(0)
        made = TransformerBlock(GPTConfig(vocab_size=10, d_model=8, num_heads=2, **settings), 0).double()
        for name, parameter in made.named_parameters():
            if "norm" in name:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
        return made

    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    everything = torch.ones(3, 3, dtype=torch.bool)
    first_hidden = torch.tensor([False, True, True, True, True]).expand(3, 5)

    def question(what: str, of: TransformerBlock, *rest: Any) -> Case:
        return Case(what, [of, x.clone(), *rest], observe=lambda result, _: result.detach())

    post = {"norm_position": "post"}
    yield question("pre-norm", block().eval())
    yield question("post-norm", block(**post).eval())
    yield question("pre-norm, with positions and a mask", block().eval(), torch.tanh, None, everything)
    yield question("post-norm, with a mask", block(**post).eval(), None, None, everything)
    yield question("pre-norm, with a store and a bias on the scores", block().eval(), None, _Store(), None, _bias)
    yield question("post-norm, with a store and a bias", block(**post).eval(), None, _Store(), None, _bias)
    yield question("dropout of 0.5 while training", block(dropout=0.5).train())
    yield question("dropout of 0.5 while training, post-norm", block(dropout=0.5, **post).train())
    yield question("pre-norm, with a store, positions and a mask", block().eval(), torch.tanh, _Store(), first_hidden)
    yield question(
        "post-norm, with positions, a mask and a bias", block(**post).eval(), torch.tanh, None, everything, _bias
    )


def _variant(self: TransformerBlock, x: Tensor, *rest: Any, **wrong: bool) -> Tensor:
    if wrong.get("no_arguments"):
        rest = ()
    if wrong.get("no_bias"):
        rest = rest[:3]
    drop: Callable[[Tensor], Tensor] = self.dropout if not wrong.get("no_dropout") else lambda y: y
    if self.pre_norm or wrong.get("always_pre"):
        if wrong.get("residual_of_norm"):
            x = self.attention_norm(x)
            x = x + drop(self.attention(x, *rest))
            x = self.feed_forward_norm(x)
            return x + drop(self.feed_forward(x))
        if wrong.get("parallel"):
            return (
                x
                + drop(self.attention(self.attention_norm(x), *rest))
                + drop(self.feed_forward(self.feed_forward_norm(x)))
            )
        if wrong.get("in_place"):
            x += drop(self.attention(self.attention_norm(x), *rest))
            return x + drop(self.feed_forward(self.feed_forward_norm(x)))
        x = x + drop(self.attention(self.attention_norm(x), *rest))
        return x + drop(self.feed_forward(self.feed_forward_norm(x)))
    if wrong.get("norm_of_part"):
        x = x + self.attention_norm(drop(self.attention(x, *rest)))
        return x + self.feed_forward_norm(drop(self.feed_forward(x)))
    x = self.attention_norm(x + drop(self.attention(x, *rest)))
    y: Tensor = self.feed_forward_norm(x + drop(self.feed_forward(x)))
    return y


def _mistaken(name: str) -> Callable[..., Any]:
    def forward(
        self: TransformerBlock,
        x: Tensor,
        rotate: RotateHeads | None = None,
        store: KeyValueStore | None = None,
        allowed: Tensor | None = None,
        score_bias: ScoreBias | None = None,
    ) -> Tensor:
        return _variant(self, x, rotate, store, allowed, score_bias, **{name: True})

    return forward


EXERCISE = Exercise(
    stub=forward,
    reference="transformer.transformer_block:TransformerBlock.forward",
    cases=cases,
    differentiable=True,
    hints=(
        "Write the two lines of pre-norm first. Only the part's output is added to x.",
        "Pre-norm: x + dropout(part(norm(x))). Post-norm: norm(x + dropout(part(x))). First attention, then feed-forward.",
        "x = x + self.dropout(self.attention(self.attention_norm(x), rotate, store, allowed, score_bias)); return x + "
        "self.dropout(self.feed_forward(self.feed_forward_norm(x))).",
    ),
    mistakes=(
        Mistake(
            _mistaken("residual_of_norm"),
            "the stream itself must not be normalised: norm(x) goes into the part, and x itself goes past it",
        ),
        Mistake(
            _mistaken("parallel"),
            "the feed-forward reads the stream after attention was added (some models do both in parallel; this one does not)",
        ),
        Mistake(_mistaken("in_place"), "x += … changes the caller's tensor: x = x + … makes a new one"),
        Mistake(
            _mistaken("norm_of_part"), "post-norm normalises the sum, x and the part's output, not the output alone"
        ),
        Mistake(_mistaken("always_pre"), "self.pre_norm decides between the two forms"),
        Mistake(_mistaken("no_arguments"), "rotate, store, allowed and score_bias are not handed to attention"),
        Mistake(_mistaken("no_bias"), "score_bias is not handed to attention"),
        Mistake(_mistaken("no_dropout"), "dropout is applied to the output of each part"),
    ),
)
