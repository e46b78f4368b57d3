"""Phi3ForCausalLM: Llama with fused projections, a window, and in Phi-4-mini with a part of each head turned."""

from __future__ import annotations

from typing import Any

from groundwork.foreign_settings import ForeignSettings
from transformer.config import GPTConfig
from transformer.pretrained_family import ANY, Family, Stored, unwanted_parts
from transformer.pretrained_llama import COMPUTED, PRE_NORMS, llama_tensors, read_llama, read_rope, write_llama


def _read_phi3(hf: ForeignSettings) -> GPTConfig:
    hf.one_of("hidden_act", "silu")
    return read_llama(hf, eps=1e-5, sliding_window=hf.whole("sliding_window", None), **read_rope(hf, partial=True))


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
    # Dropout is for training. The second limit is for scalings that are refused, and code of the authors is not run.
    frozenset({"resid_pdrop", "embd_pdrop", "original_max_position_embeddings", "auto_map"}),
)
