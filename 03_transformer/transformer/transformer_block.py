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

    Some families normalise the output of a part before it is added, `output_norm(attention(x))`: OLMo 2 instead of its
    input, Gemma 2 both. In GPT-NeoX both parts read the same stream: x + attention(norm(x)) + feed_forward(norm'(x)).

    Args:
        config: the model's configuration.
        layer: index of the block, from 0.
    """

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.pre_norm = config.norm_position != "post"
        self.parallel = config.parallel_residual

        def norm(at: tuple[str, ...]) -> nn.Module:
            if config.norm_position not in at:
                return nn.Identity()
            return build_norm(config.norm, config.d_model, config.norm_eps, config.bias)

        self.attention_norm = norm(("pre", "both", "post"))
        self.attention_output_norm = norm(("output", "both"))
        query_norm, key_norm = (_head_norm(config, heads) for heads in (config.num_heads, config.kv_heads))
        self.attention = MultiHeadAttention(
            config.d_model,
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            bias=config.biased_projections != "none",
            output_bias=config.biased_projections == "all",
            dropout=config.dropout,
            query_norm=query_norm,
            key_norm=key_norm,
            norm_across_heads=config.qk_norm_across_heads,
            window=config.window_of(layer),
            sinks=config.attention_sinks,
            window_in_mask=config.window_of_all is not None,
            scale=config.attention_scale,
            softcap=config.attention_softcap,
            layer=layer,
        )
        self.feed_forward_norm = norm(("pre", "both", "post"))
        self.feed_forward_output_norm = norm(("output", "both"))
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
            attended = self.attention_output_norm(self.attention(read, rotate, store, allowed, score_bias))
            x, source = x + self.dropout(attended), x
            read = _for_products(self.feed_forward_norm(source if self.parallel else x))
            return x + self.dropout(self.feed_forward_output_norm(self.feed_forward(read)))
        x = self.attention_norm(x + self.dropout(self.attention(_for_products(x), rotate, store, allowed, score_bias)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(_for_products(x))))


def _head_norm(config: GPTConfig, heads: int) -> nn.Module | None:
    """The norm of queries or keys, of one head or of all heads together."""
    if not config.qk_norm:
        return None
    size = config.head_size * (heads if config.qk_norm_across_heads else 1)
    return RMSNorm(size, config.norm_eps, config.qk_norm_weight, plus_one=config.norm == "rmsnorm_plus_one")


def _for_products(x: Tensor) -> Tensor:
    """Convert to autocast's precision what several projections read.

    If autocast did this, each projection would convert x again and keep another copy for the backward pass.
    """
    return x.to(product_dtype(x))
