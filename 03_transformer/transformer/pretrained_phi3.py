"""Phi3ForCausalLM: Llama with fused projections, a window, and in Phi-4-mini with a part of each head turned."""

from __future__ import annotations

from typing import Any

from transformer.config import GPTConfig
from transformer.pretrained_family import ANY, Family, Stored, require, unwanted_parts
from transformer.pretrained_llama import COMPUTED, PRE_NORMS, llama_tensors, read_llama, read_rope_fraction, write_llama


def _read_phi3(hf: dict[str, Any]) -> GPTConfig:
    require(hf, "hidden_act", "silu")
    return read_llama(
        {"rms_norm_eps": 1e-5, **hf}, sliding_window=hf.get("sliding_window"), rope_fraction=read_rope_fraction(hf)
    )


def _write_phi3(config: GPTConfig) -> dict[str, Any]:
    return {
        **write_llama(config),
        "sliding_window": config.sliding_window,
        "original_max_position_embeddings": config.context_length,
        "partial_rotary_factor": config.rope_fraction,
        "pad_token_id": None,  # the class's own is an id that only the published vocabulary has
    }


def _phi3_tensors(config: GPTConfig) -> dict[str, Stored]:
    tensors = llama_tensors(config, PRE_NORMS)
    width, kv_width = config.num_heads * config.head_size, config.kv_heads * config.head_size
    inner = config.feed_forward_width
    fused = {
        "self_attn.qkv_proj": (("attention.query", "attention.key", "attention.value"), (width, kv_width, kv_width)),
        "mlp.gate_up_proj": (("feed_forward.gate", "feed_forward.up"), (inner, inner)),
    }
    for layer in range(config.num_layers):
        for theirs, (names, sizes) in fused.items():
            for piece, name in enumerate(names):
                stored = Stored(f"model.layers.{layer}.{theirs}.weight", piece=piece, sizes=sizes)
                tensors[f"blocks.{layer}.{name}.weight"] = stored
    return tensors


PHI3 = Family(
    "Phi3ForCausalLM",
    "phi3",
    _read_phi3,
    _write_phi3,
    lambda config: unwanted_parts(
        config,
        {"sliding_window": ANY, "rope_fraction": ANY, "head_size": (config.d_model // config.num_heads,)},
    ),
    _phi3_tensors,
    COMPUTED,
)
