"""Multi-head attention, with grouped key-value heads, positions and a cache passed in from outside.

One class covers three designs by the number of key-value heads:

- MHA, multi-head (Vaswani et al., 2017): kv_heads = heads;
- GQA, grouped-query (Ainslie et al., 2023): a few query heads share each key-value head;
- MQA, multi-query (Shazeer, 2019): kv_heads = 1.

Fewer key-value heads leave the computation nearly the same and shrink the cache that decoding
reads for every token.

What this module does not know: how positions are encoded (it calls what it is given) and how the
cache is stored (it talks to the `KeyValueStore` protocol, which stage 7 implements).
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from attention.scaled_dot_product import attention_fused


class KeyValueStore(Protocol):
    """Where attention keeps the keys and values of the tokens it has seen.

    `length` is how many tokens are stored; it stays the same while the layers of one forward pass
    each call `update`, and grows when the model calls `advance` at the end of the pass.
    """

    length: int

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values of `layer`, each (batch, kv_heads, time, head_dim), and return all of them."""
        ...

    def advance(self, num_tokens: int) -> None:
        """Count the tokens of a finished forward pass."""
        ...


class PositionFunction(Protocol):
    """Encodes positions into queries or keys, such as RoPE."""

    def __call__(self, heads: Tensor, start: int) -> Tensor:
        """(batch, heads, time, head_dim) at positions start, start + 1, … → the same shape."""
        ...


class HeadRMSNorm(nn.Module):
    """RMS normalisation of each head's vector, with no learned scale.

    Applied to queries and keys it bounds every score by sqrt(head_dim) (Henry et al., 2020:
    "Query-Key Normalization for Transformers"), which allows higher learning rates.
    """

    def __init__(self, head_dim: int, eps: float = 1e-6):
        super().__init__()
        self.shape, self.eps = (head_dim,), eps

    def forward(self, heads: Tensor) -> Tensor:
        """(..., head_dim) → the same shape with a root mean square of 1."""
        return nn.functional.rms_norm(heads, self.shape, eps=self.eps)


class MultiHeadAttention(nn.Module):
    """Causal self-attention.

    Args:
        d_model: width of the input and output.
        num_heads: query heads; must divide `d_model`.
        num_kv_heads: key-value heads; must divide `num_heads`.
        bias: whether the four projections add a bias.
        dropout: probability of dropping an attention weight while training.
        qk_norm: normalise queries and keys before positions are encoded.
        layer: index of this layer, its name in the key-value store.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        *,
        bias: bool = False,
        dropout: float = 0.0,
        qk_norm: bool = False,
        layer: int = 0,
    ):
        super().__init__()
        num_kv_heads = num_kv_heads or num_heads
        if d_model % num_heads:
            raise ValueError(f"num_heads must divide d_model: {d_model} / {num_heads} is not whole")
        if num_heads % num_kv_heads:
            raise ValueError(f"num_kv_heads must divide num_heads: {num_heads} / {num_kv_heads} is not whole")
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_dim = d_model // num_heads
        self.dropout, self.layer = dropout, layer
        self.query = nn.Linear(d_model, num_heads * self.head_dim, bias=bias)
        self.key = nn.Linear(d_model, num_kv_heads * self.head_dim, bias=bias)
        self.value = nn.Linear(d_model, num_kv_heads * self.head_dim, bias=bias)
        self.output = nn.Linear(num_heads * self.head_dim, d_model, bias=bias)
        self.qk_norm = HeadRMSNorm(self.head_dim) if qk_norm else None

    def forward(
        self, x: Tensor, positions: PositionFunction | None = None, store: KeyValueStore | None = None
    ) -> Tensor:
        """Let every position read from itself and the positions before it.

        Args:
            x: (batch, time, d_model).
            positions: encodes positions into queries and keys; None where the embedding did.
            store: earlier keys and values to attend to as well; None while training.

        Returns:
            (batch, time, d_model).
        """
        batch, time, _ = x.shape
        q = self._split_heads(self.query(x), self.num_heads)  # (batch, heads, time, head_dim)
        k = self._split_heads(self.key(x), self.num_kv_heads)  # (batch, kv_heads, time, head_dim)
        v = self._split_heads(self.value(x), self.num_kv_heads)
        if self.qk_norm is not None:
            q, k = self.qk_norm(q), self.qk_norm(k)
        if positions is not None:
            start = store.length if store is not None else 0
            q, k = positions(q, start), positions(k, start)
        if store is not None:
            k, v = store.update(self.layer, k, v)  # (batch, kv_heads, cached + time, head_dim)
        heads = attention_fused(q, k, v, dropout=self.dropout if self.training else 0.0)
        return self.output(heads.transpose(1, 2).reshape(batch, time, -1))

    def _split_heads(self, x: Tensor, num_heads: int) -> Tensor:
        batch, time, _ = x.shape
        return x.view(batch, time, num_heads, self.head_dim).transpose(1, 2)
