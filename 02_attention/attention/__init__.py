"""Stage 2: attention, four ways to compute it, and pictures of what it looks at."""

from typing import TYPE_CHECKING

from groundwork.front_door import open_front_door

if TYPE_CHECKING:
    from attention.attention_visualizer import record_attention as record_attention
    from attention.masks import causal_mask as causal_mask, document_mask as document_mask
    from attention.multi_head_attention import KeyValueStore as KeyValueStore, MultiHeadAttention as MultiHeadAttention
    from attention.scaled_dot_product import (
        attention_fused as attention_fused,
        attention_reference as attention_reference,
    )
else:
    __getattr__, __dir__, __all__ = open_front_door(
        __name__,
        {
            "attention_visualizer": ("record_attention",),
            "masks": ("causal_mask", "document_mask"),
            "multi_head_attention": ("KeyValueStore", "MultiHeadAttention"),
            "scaled_dot_product": ("attention_reference", "attention_fused"),
        },
    )
