"""Models by name, from one that trains in seconds to GPT-2's two smaller sizes."""

from __future__ import annotations

import dataclasses

from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

_GPT2 = GPTConfig(
    vocab_size=50_257,
    context_length=1024,
    norm="layernorm",
    feed_forward="gelu_tanh",
    positions="learned",
    bias=True,
    tie_embeddings=True,
)
_LLAMA = GPTConfig(
    vocab_size=16_384, context_length=512, norm="rmsnorm", feed_forward="swiglu", positions="rope", tie_embeddings=True
)

PRESETS: dict[str, GPTConfig] = {
    # 0.9 million parameters: for tests and first tries
    "tiny": dataclasses.replace(
        _LLAMA, vocab_size=1024, context_length=128, num_layers=4, num_heads=4, num_kv_heads=2, d_model=128
    ),
    # Llama's parts at 30 and 50 million parameters: one GPU, or a night on a CPU
    "llama_30m": dataclasses.replace(_LLAMA, num_layers=8, num_heads=8, num_kv_heads=4, d_model=512),
    "llama_50m": dataclasses.replace(
        _LLAMA, context_length=1024, num_layers=12, num_heads=9, num_kv_heads=3, d_model=576, d_ff=1536
    ),
    # GPT-2 as published (Radford et al., 2019): "small" and "medium"
    "gpt2_124m": dataclasses.replace(_GPT2, num_layers=12, num_heads=12, d_model=768),
    "gpt2_345m": dataclasses.replace(_GPT2, num_layers=24, num_heads=16, d_model=1024),
}


def preset(name: str) -> GPTConfig:
    """The configuration of a preset.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; the choices are {', '.join(PRESETS)}")
    return PRESETS[name]


class TransformerLM(GPTModel):
    """A model like Llama that needs only its sizes: RMSNorm before each part, SwiGLU, rotary positions, no biases.

    Args:
        vocab_size: number of token ids.
        context_length: the most tokens the model sees at once.
        d_model: width of the residual stream.
        num_layers: transformer blocks.
        num_heads: attention heads; must divide `d_model`.
        d_ff: inner width of the feed-forward, usually 8/3 · d_model.
        rope_theta: base of the rotary speeds.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
        d_ff: int,
        rope_theta: float = 10_000.0,
    ):
        super().__init__(
            GPTConfig(
                vocab_size=vocab_size,
                context_length=context_length,
                num_layers=num_layers,
                num_heads=num_heads,
                d_model=d_model,
                d_ff=d_ff,
                rope_theta=rope_theta,
                tie_embeddings=False,
            )
        )
