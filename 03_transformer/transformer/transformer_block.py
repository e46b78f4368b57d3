"""One transformer block: read from other positions, then compute with what was read."""

from __future__ import annotations

from torch import Tensor, nn

from attention.cpu_attention import product_dtype
from attention.multi_head_attention import KeyValueStore, MultiHeadAttention, RotateHeads, ScoreBias
from transformer.config import GPTConfig
from transformer.feed_forward import build_feed_forward
from transformer.layers import Dropout, RMSNorm, build_norm


class TransformerBlock(nn.Module):
    """Attention, then feed-forward, each added to the residual stream.

    Pre-norm: x + attention(norm(x)), then x + feed_forward(norm(x)). The residual stream goes from the
    embedding to the head without a norm, and gradients reach every layer at full size (Xiong et al., 2020).

    Post-norm: norm(x + attention(x)), then norm(x + feed_forward(x)), as in the first transformer. Each
    norm rescales the stream, and deep models can only be trained with a long warm-up.

    Args:
        config: the model's configuration.
        layer: index of the block, from 0.
    """

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.pre_norm = config.norm_position == "pre"
        self.attention_norm = build_norm(config.norm, config.d_model, config.norm_eps, config.bias)
        query_norm, key_norm = (
            RMSNorm(config.head_size, config.norm_eps, config.qk_norm_weight) if config.qk_norm else None
            for _ in range(2)
        )
        self.attention = MultiHeadAttention(
            config.d_model,
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            bias=config.bias,
            dropout=config.dropout,
            query_norm=query_norm,
            key_norm=key_norm,
            window=config.sliding_window,
            sinks=config.attention_sinks,
            layer=layer,
        )
        self.feed_forward_norm = build_norm(config.norm, config.d_model, config.norm_eps, config.bias)
        self.feed_forward = build_feed_forward(
            config.feed_forward, config.d_model, config.feed_forward_width, config.bias
        )
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rotate: RotateHeads | None = None,
        store: KeyValueStore | None = None,
        allowed: Tensor | None = None,
        score_bias: ScoreBias | None = None,
    ) -> Tensor:
        """(batch, time, d_model) → (batch, time, d_model); the other arguments are those of attention."""
        if self.pre_norm:
            read = _for_products(self.attention_norm(x))
            x = x + self.dropout(self.attention(read, rotate, store, allowed, score_bias))
            return x + self.dropout(self.feed_forward(_for_products(self.feed_forward_norm(x))))
        x = self.attention_norm(x + self.dropout(self.attention(_for_products(x), rotate, store, allowed, score_bias)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(_for_products(x))))


def _for_products(x: Tensor) -> Tensor:
    """Convert to autocast's precision what several projections read.

    If autocast did this, each projection would convert x again and keep another copy for the backward pass.
    """
    return x.to(product_dtype(x))
