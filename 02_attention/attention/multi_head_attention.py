"""Multi-head attention: several small attentions at the same time, each of which looks for something different.

One class covers three designs, which differ in the number of key-value heads:

- MHA, multi-head (Vaswani et al., 2017): kv_heads = heads;
- GQA, grouped-query (Ainslie et al., 2023): a few query heads share each key-value head;
- MQA, multi-query (Shazeer, 2019): kv_heads = 1.

Fewer key-value heads hardly change the computation, but decoding reads a smaller cache for every token.

Three things are passed in from outside: how positions are encoded, how queries and keys are
normalised, and where earlier keys and values are kept (the `KeyValueStore` protocol, which stage 7
implements).

python -m attention.multi_head_attention
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from attention.masks import causal_mask
from attention.scaled_dot_product import attention_capped, attention_fused, attention_reference

# Encodes positions into queries or keys, such as RoPE: (batch, heads, time, head_dim) → the same shape.
RotateHeads = Callable[[Tensor], Tensor]
# Encodes positions into scores, such as ALiBi: (num_queries, num_keys) → broadcastable to
# (batch, heads, num_queries, num_keys).
ScoreBias = Callable[[int, int], Tensor]
# Is called with what a layer attends to: (layer, weights of shape (batch, heads, num_queries, num_keys)).
WeightsObserver = Callable[[int, Tensor], None]


class KeyValueStore(Protocol):
    """Where attention keeps the keys and values of the tokens it has seen.

    `length` is how many tokens are stored. It stays the same while each layer of a forward pass calls
    `update`, and it grows when the model calls `advance` at the end of the pass.
    """

    length: int

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values of `layer`, each (batch, kv_heads, time, head_dim), and return all of them."""
        ...

    def advance(self, num_tokens: int) -> None:
        """Count the tokens of a finished forward pass."""
        ...


class RaggedStore(ABC):
    """A store that also computes attention: one row contains several sequences of different lengths, without padding.

    Only the store knows where each sequence's tokens begin and which keys it has, so it gets the queries
    too. Stage 7's paged cache is such a store. `length` and `advance` are those of `KeyValueStore`.
    """

    length: int = 0

    @abstractmethod
    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, score_bias: ScoreBias | None) -> Tensor:
        """Store the new keys and values (1, kv_heads, tokens, head_dim), and attend within each sequence.

        Returns:
            The shape of `queries`, (1, heads, tokens, head_dim).
        """

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Refuse, because the result could not show which tokens belong to which sequence."""
        raise TypeError("a ragged store attends by itself; call attend")

    @abstractmethod
    def advance(self, num_tokens: int) -> None:
        """Count the tokens of a finished forward pass."""


class MultiHeadAttention(nn.Module):
    """Causal self-attention.

    Args:
        d_model: width of the input and output.
        num_heads: query heads.
        num_kv_heads: key-value heads, which must divide `num_heads`; None for the same number.
        head_dim: size of a head's vectors; None for d_model / num_heads.
        bias: whether the projections add a bias.
        output_bias: whether the output projection does; None for the same as the others.
        dropout: probability of dropping an attention weight while training.
        query_norm: applied to each head's queries before positions are encoded; see `transformer.layers.RMSNorm`.
            Normalised queries and keys have bounded scores, which allows higher learning rates
            (Henry et al., 2020: "Query-Key Normalization for Transformers").
        key_norm: the same for keys.
        norm_across_heads: `query_norm` and `key_norm` normalise all heads of a token together.
        window: how many positions a query sees, including its own; None for all before it.
        sinks: how many first positions stay visible with any window.
        window_in_mask: whether a mask that `forward` is given contains the window. False if other layers have none.
        scale: scores are multiplied by it; None for 1 / sqrt(head_dim).
        softcap: limit of the scores; see `attention_capped`.
        layer: index of this layer; the key-value store knows the layer by it.

    Raises:
        ValueError: a size is below 1, or one of the divisions leaves a remainder.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        *,
        bias: bool = False,
        dropout: float = 0.0,
        output_bias: bool | None = None,
        query_norm: nn.Module | None = None,
        key_norm: nn.Module | None = None,
        norm_across_heads: bool = False,
        window: int | None = None,
        sinks: int = 0,
        window_in_mask: bool = True,
        scale: float | None = None,
        softcap: float | None = None,
        layer: int = 0,
    ):
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        sizes = {"d_model": d_model, "num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_dim": head_dim}
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if head_dim is None and d_model % num_heads:
            raise ValueError(f"num_heads must divide d_model: {d_model} / {num_heads} is not whole")
        if num_heads % num_kv_heads:
            raise ValueError(f"num_kv_heads must divide num_heads: {num_heads} / {num_kv_heads} is not whole")
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_dim = head_dim or d_model // num_heads
        self.dropout, self.window, self.sinks, self.layer = dropout, window, sinks, layer
        self.window_in_mask, self.softcap = window_in_mask, softcap
        # Attention divides scores by sqrt(head_dim). Queries are multiplied by what another scale still needs.
        self.query_factor = None if scale is None else scale * self.head_dim**0.5
        self.query = nn.Linear(d_model, num_heads * self.head_dim, bias=bias)
        self.key = nn.Linear(d_model, num_kv_heads * self.head_dim, bias=bias)
        self.value = nn.Linear(d_model, num_kv_heads * self.head_dim, bias=bias)
        self.output = nn.Linear(num_heads * self.head_dim, d_model, bias=bias if output_bias is None else output_bias)
        self.query_norm, self.key_norm, self.norm_across_heads = query_norm, key_norm, norm_across_heads
        self.observer: WeightsObserver | None = None
        self.joint: nn.Module | None = None  # the first three projections as one product, if stage 7 has joined them

    def forward(
        self,
        x: Tensor,
        rotate: RotateHeads | None = None,
        store: KeyValueStore | None = None,
        allowed: Tensor | None = None,
        score_bias: ScoreBias | None = None,
    ) -> Tensor:
        """Let every position read from itself and the positions before it.

        Args:
            x: (batch, time, d_model).
            rotate: encodes positions into queries and keys; None if the embedding has done it.
            store: earlier keys and values to attend to as well; None while training.
            allowed: the whole mask, including causality and window, broadcastable to
                (batch, heads, time, keys); None is causal within the layer's window.
            score_bias: encodes positions into the scores.

        Returns:
            (batch, time, d_model).
        """
        time = x.shape[1]
        if self.joint is None:
            q, k, v = self.query(x), self.key(x), self.value(x)
        else:
            widths = [self.num_heads * self.head_dim] + 2 * [self.num_kv_heads * self.head_dim]
            q, k, v = self.joint(x).split(widths, dim=-1)
        if self.norm_across_heads and self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        q = self._split_heads(q, self.num_heads)  # (batch, heads, time, head_dim)
        k = self._split_heads(k, self.num_kv_heads)  # (batch, kv_heads, time, head_dim)
        v = self._split_heads(v, self.num_kv_heads)
        if self.query_norm is not None and not self.norm_across_heads:
            q = self.query_norm(q)
        if self.key_norm is not None and not self.norm_across_heads:
            k = self.key_norm(k)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        if self.query_factor is not None:
            q = q * self.query_factor
        if isinstance(store, RaggedStore):
            heads = store.attend(self.layer, q, k, v, score_bias)
            return self.output(heads.transpose(1, 2).flatten(2))
        if store is not None:
            k, v = store.update(self.layer, k, v)  # (batch, kv_heads, cached + time, head_dim)
        num_keys = k.shape[-2]
        if self.window is not None and self.window < num_keys and (allowed is None or not self.window_in_mask):
            inside = causal_mask(time, num_keys, self.window, self.sinks, x.device)
            allowed = inside if allowed is None else allowed & inside
        bias = score_bias(time, num_keys) if score_bias is not None else None
        if self.observer is None:
            heads = attention_fused(q, k, v, allowed, bias, self.dropout if self.training else 0.0, self.softcap)
        else:
            if self.softcap is None:
                heads, weights = attention_reference(q, k, v, allowed, bias)
            else:
                heads, weights = attention_capped(q, k, v, allowed, bias, self.softcap)
            self.observer(self.layer, weights)
        return self.output(heads.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor, num_heads: int) -> Tensor:
        batch, time, _ = x.shape
        return x.view(batch, time, num_heads, self.head_dim).transpose(1, 2)


def main() -> None:
    """Compare MHA, GQA and MQA by their parameters and by what decoding has to remember."""
    d_model, num_heads, context = 768, 12, 1024
    print(f"{num_heads} query heads, d_model {d_model}, {context:,} tokens remembered in float16\n")
    print("kv_heads        parameters   keys and values of one layer")
    for num_kv_heads, name in ((12, "MHA"), (4, "GQA"), (1, "MQA")):
        attention = MultiHeadAttention(d_model, num_heads, num_kv_heads)
        parameters = sum(parameter.numel() for parameter in attention.parameters())
        remembered = 2 * context * num_kv_heads * attention.head_dim * torch.float16.itemsize
        print(f"{num_kv_heads:>8}  {name}  {parameters:>12,}   {remembered / 2**10:,.0f} KiB")


if __name__ == "__main__":
    main()
