"""One transformer block: read from other positions, then think about what was read."""

from __future__ import annotations

from torch import Tensor, nn

from attention.multi_head_attention import KeyValueStore, MultiHeadAttention, PositionFunction
from transformer.config import GPTConfig
from transformer.feed_forward import build_feed_forward
from transformer.layers import build_norm


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)).

    Norms come before each part (pre-norm: Xiong et al., 2020), so that the residual stream runs
    from the embedding to the head untouched and gradients reach every layer at full size.

    Args:
        config: the model's configuration.
        layer: index of the block, from 0.
    """

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.attention_norm = build_norm(config.norm, config.d_model, config.norm_eps, config.bias)
        self.attention = MultiHeadAttention(
            config.d_model,
            config.num_heads,
            config.num_kv_heads,
            bias=config.bias,
            dropout=config.dropout,
            qk_norm=config.qk_norm,
            layer=layer,
        )
        self.feed_forward_norm = build_norm(config.norm, config.d_model, config.norm_eps, config.bias)
        self.feed_forward = build_feed_forward(
            config.feed_forward, config.d_model, config.feed_forward_width, config.bias
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, positions: PositionFunction | None = None, store: KeyValueStore | None = None
    ) -> Tensor:
        """(batch, time, d_model) → (batch, time, d_model)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), positions, store))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
