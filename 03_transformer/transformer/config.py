"""`GPTConfig`: the parts of a model by name, checked before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transformer.feed_forward import default_d_ff


@dataclass(frozen=True)
class GPTConfig:
    """What a `GPTModel` is made of.

    Args:
        vocab_size: number of token ids; null takes the tokenizer's when training.
        context_length: the most tokens the model sees at once.
        num_layers: transformer blocks.
        num_heads: query heads of attention; must divide `d_model`.
        num_kv_heads: key-value heads; null for as many as `num_heads`.
        d_model: width of the residual stream.
        d_ff: inner width of the feed-forward; null for 4 · d_model (8/3 of it for swiglu).
        norm: `layernorm` (GPT-2) or `rmsnorm` (Llama).
        norm_eps: added under the square root of the norm.
        feed_forward: `gelu`, `gelu_tanh` (GPT-2), `relu2` or `swiglu` (Llama).
        positions: `learned` (GPT-2) or `rope` (Llama).
        rope_theta: base of the rotary speeds.
        qk_norm: normalise queries and keys.
        bias: biases in projections and layer norms (GPT-2 has them, Llama does not).
        tie_embeddings: the output head is the token embedding itself.
        zero_init_residual: start each block's output projections at zero, so that the untrained
            model passes its input through; otherwise they start small, as in GPT-2.
        dropout: probability of dropping an activation while training.
    """

    vocab_size: int | None = None
    context_length: int = 256
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int | None = None
    d_model: int = 256
    d_ff: int | None = None
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    norm_eps: float = 1e-5
    feed_forward: Literal["gelu", "gelu_tanh", "relu2", "swiglu"] = "swiglu"
    positions: Literal["learned", "rope"] = "rope"
    rope_theta: float = 10_000.0
    qk_norm: bool = False
    bias: bool = False
    tie_embeddings: bool = True
    zero_init_residual: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "context_length", "num_layers", "num_heads", "num_kv_heads", "d_model", "d_ff")
        for name in sizes:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"model.{name} must be at least 1, got {value}")
        if self.d_model % self.num_heads:
            raise ValueError(
                f"model.num_heads must divide model.d_model: {self.d_model} / {self.num_heads} is not whole"
            )
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"model.num_kv_heads must divide model.num_heads: {self.num_heads} / {self.num_kv_heads} is not whole"
            )
        if self.positions == "rope" and self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head size; d_model / num_heads is {self.head_dim}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"model.dropout must be at least 0 and below 1, got {self.dropout}")
        if self.norm_eps <= 0 or self.rope_theta <= 0:
            raise ValueError("model.norm_eps and model.rope_theta must be above 0")

    @property
    def head_dim(self) -> int:
        """Size of one head's query, key and value."""
        return self.d_model // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Number of key-value heads."""
        return self.num_kv_heads or self.num_heads

    @property
    def feed_forward_width(self) -> int:
        """Inner width of the feed-forward."""
        return self.d_ff or default_d_ff(self.feed_forward, self.d_model)
