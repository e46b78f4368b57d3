"""Exercise 2.6: Multi-head attention, the whole layer."""

from __future__ import annotations

from torch import Tensor

from attention.masks import causal_mask
from attention.multi_head_attention import KeyValueStore, MultiHeadAttention, RotateHeads, ScoreBias
from attention.scaled_dot_product import attention_reference


def forward(
    self: MultiHeadAttention,
    x: Tensor,
    rotate: RotateHeads | None = None,
    store: KeyValueStore | None = None,
    allowed: Tensor | None = None,
    score_bias: ScoreBias | None = None,
) -> Tensor:
    """Let every position read from itself and the positions before it.

    1. Project x to queries, keys and values: `self.query(x)` is (batch, time, num_heads · head_dim), `self.key(x)` and
       `self.value(x)` are (batch, time, num_kv_heads · head_dim).
    2. Bring each into the shape (batch, heads, time, head_dim).
    3. Apply `self.query_norm` to queries and `self.key_norm` to keys, where they are not None. Then, if rotate is not
       None, `queries = rotate(queries)`, and the same for `keys`.
    4. With a store, `store.update(self.layer, keys, values)` keeps the new keys and values and returns all of them.
       (`self.layer` is this layer's number.)
    5. Attend: `attention_reference(queries, keys, values, allowed, bias)`, exercise 2.5. Where `allowed` is None, it is
       `causal_mask(time, num_keys, self.window, self.sinks, x.device)`. The bias is `score_bias(time, num_keys)`, if
       score_bias is not None.
    6. Put the heads side by side again, (batch, time, num_heads · head_dim), and project by `self.output`.

    `self.num_heads`, `self.num_kv_heads`, `self.head_dim` and `self.sinks` are numbers; `self.window` is a number or
    None. The package's layer also has attention dropout and observers. You do not need to write those.

    Args:
        self: the layer.
        x: (batch, time, d_model).
        rotate: encodes positions into queries and keys.
        store: earlier keys and values to attend to as well.
        allowed: the whole mask, boolean, broadcastable to (batch, heads, time, num_keys). None means causal.
        score_bias: encodes positions into scores.

    Returns:
        (batch, time, d_model).
    """
    raise NotImplementedError("Exercise 2.6: the whole layer")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from attention.multi_head_attention import RaggedStore
from learn.exercise import Case, Exercise, Mistake


class _Store:
    """A store that has seen three tokens, in each of three layers."""

    def __init__(self, kv_heads: int, head_dim: int, batch: int = 1):
        generator = torch.Generator().manual_seed(5)
        self.length = 3
        shape = (2, 3, batch, kv_heads, 3, head_dim)
        self.keys, self.values = torch.randn(shape, generator=generator, dtype=torch.float64)

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return old and new keys and values."""
        return torch.cat([self.keys[layer], keys], dim=2), torch.cat([self.values[layer], values], dim=2)

    def advance(self, num_tokens: int) -> None:
        """Do nothing: this store does not count."""


class _Scale(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """This takes the place of a norm. It is not linear, so its place matters."""
        return x.tanh()


def _turned(heads: Tensor) -> Tensor:
    """This takes the place of rotary positions. It depends on the place in time and mixes dimensions."""
    angles = torch.arange(heads.shape[-2], dtype=heads.dtype)[:, None]
    return heads * angles.cos() + heads.roll(1, dims=-1) * angles.sin()


def cases() -> Iterator[Case]:
    """One head; several; groups; positions and norms; a window; a mask; a cache; a bias."""

    def layer(*args: Any, **kwargs: Any) -> MultiHeadAttention:
        torch.manual_seed(0)
        return MultiHeadAttention(*args, **kwargs).double().eval()

    def x(time: int, batch: int = 2) -> Tensor:
        return torch.randn(batch, time, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def bias(num_queries: int, num_keys: int) -> Tensor:
        return -0.5 * torch.arange(num_keys - 1, -1, -1, dtype=torch.float64)

    yield Case("one head", [layer(8, 1), x(3)])
    yield Case("two heads", [layer(8, 2), x(3)])
    yield Case("four heads, two key-value heads", [layer(8, 4, 2), x(3)])
    yield Case("rotary positions", [layer(8, 2), x(4), _turned])
    yield Case("norms and rotary positions", [layer(8, 2, query_norm=_Scale(), key_norm=_Scale()), x(4), _turned])
    yield Case("a window of 2", [layer(8, 2, window=2), x(5)])
    yield Case(
        "a mask that lets every position see all others",
        [layer(8, 2), x(3), None, None, torch.ones(3, 3, dtype=torch.bool)],
    )
    yield Case("two new tokens after three stored ones", [layer(8, 2), x(2, 1), None, _Store(2, 4)])
    yield Case(
        "two new tokens after three stored ones, norms and rotary positions",
        [layer(8, 2, query_norm=_Scale(), key_norm=_Scale()), x(2, 1), _turned, _Store(2, 4)],
    )
    yield Case("a bias on the scores", [layer(8, 2), x(4), None, None, None, bias])
    yield Case(
        "the second layer's store, a batch of two, grouped heads",
        [layer(8, 4, 2, layer=1), x(2), None, _Store(2, 2, 2)],
    )
    yield Case("a window of 2 after three stored tokens", [layer(8, 2, window=2), x(2, 1), None, _Store(2, 4)])
    yield Case(
        "a window of 2 and 1 sink after three stored tokens",
        [layer(8, 2, window=2, sinks=1), x(2, 1), None, _Store(2, 4)],
    )
    yield Case("a window of 2 and 1 sink", [layer(8, 2, window=2, sinks=1), x(5)])
    yield Case("a bias on the scores after three stored tokens", [layer(8, 2), x(2, 1), None, _Store(2, 4), None, bias])
    hidden = torch.tensor([[True, False, True, True, False], [True, True, False, True, True]])
    yield Case(
        "a mask, where the layer has a window, after three stored tokens",
        [layer(8, 2, window=1), x(2, 1), None, _Store(2, 4), hidden],
    )
    yield Case("a norm for the queries only", [layer(8, 2, query_norm=_Scale()), x(3)])
    yield Case("heads of 3, which is not d_model / num_heads, and biases", [layer(8, 2, head_dim=3, bias=True), x(3)])
    yield Case("one token alone", [layer(8, 2), x(1, 1)])


def _variant(
    self: MultiHeadAttention,
    x: Tensor,
    rotate: RotateHeads | None = None,
    store: KeyValueStore | RaggedStore | None = None,
    allowed: Tensor | None = None,
    score_bias: ScoreBias | None = None,
    **wrong: bool,
) -> Tensor:
    batch, time, _ = x.shape

    def split(y: Tensor, heads: int) -> Tensor:
        if wrong.get("reshaped") or wrong.get("never_transposed"):
            return y.reshape(batch, heads, time, self.head_dim)
        return y.view(batch, time, heads, self.head_dim).transpose(1, 2)

    q, k, v = (
        split(self.query(x), self.num_heads),
        split(self.key(x), self.num_kv_heads),
        split(self.value(x), self.num_kv_heads),
    )
    if wrong.get("stored_first") and store is not None:
        k, v = store.update(self.layer, k, v)
    if wrong.get("late_norm") and rotate is not None:
        q, k = rotate(q), rotate(k)
    q = q if self.query_norm is None else self.query_norm(q)
    k = k if self.key_norm is None else self.key_norm(k)
    if rotate is not None and not wrong.get("late_norm"):
        q, k = rotate(q), rotate(k)
        v = rotate(v) if wrong.get("values_rotated") else v
    if store is not None and not wrong.get("no_store") and not wrong.get("stored_first"):
        k, v = store.update(0 if wrong.get("no_layer") else self.layer, k, v)
    num_keys = k.shape[-2]
    if allowed is None or wrong.get("always_causal"):
        width = time if wrong.get("square_mask") else num_keys
        forgotten = wrong.get("no_window") or (wrong.get("window_lost") and store is not None)
        allowed = causal_mask(time, width, None if forgotten else self.window, self.sinks, x.device)
    bias = score_bias(time, num_keys) if score_bias is not None else None
    heads = attention_reference(q, k, v, allowed, bias)[0]
    if wrong.get("joined_wrongly") or wrong.get("never_transposed"):
        return self.output(heads.reshape(batch, time, -1))
    return self.output(heads.transpose(1, 2).reshape(batch, time, -1))


def _mistaken(name: str) -> Any:
    def forward(
        self: MultiHeadAttention,
        x: Tensor,
        rotate: RotateHeads | None = None,
        store: KeyValueStore | None = None,
        allowed: Tensor | None = None,
        score_bias: ScoreBias | None = None,
    ) -> Tensor:
        return _variant(self, x, rotate, store, allowed, score_bias, **{name: True})

    return forward


_MIXED = "view(batch, heads, time, head_dim) mixes positions and heads: cut the width first, then transpose"

EXERCISE = Exercise(
    stub=forward,
    reference="attention.multi_head_attention:MultiHeadAttention.forward",
    cases=cases,
    differentiable=True,
    hints=(
        "First write it without rotate, norms, store and bias: the first three questions need none of them.",
        "view(batch, time, heads, head_dim) cuts the width into heads, and transpose(1, 2) brings the heads forward. At the "
        "end transpose(1, 2) back, then reshape(batch, time, -1).",
        "q = self.query(x).view(batch, time, self.num_heads, self.head_dim).transpose(1, 2), the same for k and v "
        "with num_kv_heads; norms; rotate; store.update; then attention_reference(q, k, v, allowed, bias)[0].",
    ),
    mistakes=(
        Mistake(_mistaken("reshaped"), _MIXED),
        Mistake(_mistaken("never_transposed"), _MIXED),
        Mistake(
            _mistaken("joined_wrongly"),
            "transpose back to (batch, time, heads, head_dim) before reshaping to (batch, time, width)",
        ),
        Mistake(_mistaken("values_rotated"), "positions are encoded into queries and keys, not into values"),
        Mistake(_mistaken("late_norm"), "norms come before positions: a norm after the rotation would depend on them"),
        Mistake(_mistaken("no_window"), "the layer's window and sinks are not in the mask"),
        Mistake(_mistaken("window_lost"), "with a store, too, the layer's window and sinks are in the mask"),
        Mistake(_mistaken("no_layer"), "the store keeps each layer's keys apart: store.update(self.layer, …)"),
        Mistake(_mistaken("always_causal"), "a given mask is the whole mask: use it instead of the causal mask"),
        Mistake(_mistaken("no_store"), "the stored keys and values are not used"),
        Mistake(_mistaken("square_mask"), "with a store there are more keys than queries: take num_keys from the keys"),
        Mistake(
            _mistaken("stored_first"),
            "the cache keeps keys that are normalised and turned already: norms and rotate only for the new ones, "
            "before store.update",
        ),
    ),
)
