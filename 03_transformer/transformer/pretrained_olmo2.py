"""Olmo2ForCausalLM: Llama with norms after the parts, and with queries and keys normalised across all heads."""

from __future__ import annotations

from groundwork.foreign_settings import ForeignSettings
from transformer.config import GPTConfig
from transformer.pretrained_family import Family, unwanted_parts
from transformer.pretrained_llama import COMPUTED, attention_bias, llama_tensors, read_llama, write_llama

_NORMS = {
    "attention_output_norm": "post_attention_layernorm",
    "feed_forward_output_norm": "post_feedforward_layernorm",
}


def _read_olmo2(hf: ForeignSettings) -> GPTConfig:
    hf.one_of("hidden_act", "silu")
    return read_llama(
        hf,
        eps=1e-5,
        attention_bias=attention_bias(hf),
        norm_position="output",
        qk_norm=True,
        qk_norm_weight=True,
        qk_norm_across_heads=True,
    )


OLMO2 = Family(
    "Olmo2ForCausalLM",
    "olmo2",
    _read_olmo2,
    lambda config: {**write_llama(config), "attention_bias": config.biased_projections == "all"},
    lambda config: unwanted_parts(
        config,
        {
            "norm_position": ("output",),
            "qk_norm": (True,),
            "qk_norm_across_heads": (True,),
            "biased_projections": ("none", "all"),
            "head_size": (config.d_model // config.num_heads,),
        },
    ),
    lambda config: llama_tensors(config, _NORMS),
    COMPUTED,
)
