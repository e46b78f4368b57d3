"""GPTNeoXForCausalLM (Pythia): attention and feed-forward side by side, and a part of each head turned."""

from __future__ import annotations

from typing import Any

from transformer.config import GPTConfig
from transformer.pretrained_family import ANY, Family, Stored, require, unwanted_parts
from transformer.pretrained_llama import COMPUTED, read_rope

_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}


def _read_neox(hf: dict[str, Any]) -> GPTConfig:
    require(hf, "hidden_act", *_ACTIVATIONS.values(), "gelu_pytorch_tanh", "gelu_fast")
    names = {theirs: ours for ours, theirs in _ACTIVATIONS.items()}
    theta, scaling = read_rope({"rope_theta": hf.get("rotary_emb_base", 10_000.0), **hf})
    fraction = (hf.get("rope_parameters") or {}).get("partial_rotary_factor", hf.get("rotary_pct", 0.25))
    biased = bool(hf.get("attention_bias", True))
    return GPTConfig.from_dict(
        {
            "vocab_size": hf["vocab_size"],
            "context_length": hf["max_position_embeddings"],
            "num_layers": hf["num_hidden_layers"],
            "num_heads": hf["num_attention_heads"],
            "d_model": hf["hidden_size"],
            "d_ff": hf["intermediate_size"],
            "norm": "layernorm",
            "norm_eps": hf.get("layer_norm_eps", 1e-5),
            "parallel_residual": hf.get("use_parallel_residual", True),
            "feed_forward": names.get(hf.get("hidden_act", "gelu"), "gelu_tanh"),
            "positions": "rope",
            "rope_theta": theta,
            "rope_scaling": scaling,
            "rope_fraction": fraction,
            "bias": True,
            "attention_bias": "all" if biased else "none",
            "tie_embeddings": hf.get("tie_word_embeddings", False),
        }
    )


def _write_neox(config: GPTConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "intermediate_size": config.feed_forward_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "hidden_act": _ACTIVATIONS[config.feed_forward],
        "layer_norm_eps": config.norm_eps,
        "rotary_pct": config.rope_fraction,
        "rotary_emb_base": config.rope_theta,
        "use_parallel_residual": config.parallel_residual,
        "attention_bias": config.biased_projections == "all",
        "tie_word_embeddings": config.tie_embeddings,
    }


def _neox_obstacles(config: GPTConfig) -> list[str]:
    return unwanted_parts(
        config,
        {
            "norm": ("layernorm",),
            "parallel_residual": ANY,
            "feed_forward": tuple(_ACTIVATIONS),
            "rope_fraction": ANY,
            "bias": (True,),
            "biased_projections": ("none", "all"),
            "kv_heads": (config.num_heads,),
            "head_size": (config.d_model // config.num_heads,),
            "rope_scaling": (None,),
        },
    )


def _neox_tensors(config: GPTConfig) -> dict[str, Stored]:
    tensors = {"token_embedding.weight": Stored("gpt_neox.embed_in.weight")}
    for kind in ("weight", "bias"):
        tensors[f"final_norm.{kind}"] = Stored(f"gpt_neox.final_layer_norm.{kind}")
        biased = kind == "weight" or config.biased_projections == "all"
        for layer in range(config.num_layers):
            ours, theirs = f"blocks.{layer}", f"gpt_neox.layers.{layer}"
            parts = {
                "attention_norm": "input_layernorm",
                "feed_forward_norm": "post_attention_layernorm",
                "feed_forward.up": "mlp.dense_h_to_4h",
                "feed_forward.down": "mlp.dense_4h_to_h",
                **({"attention.output": "attention.dense"} if biased else {}),
            }
            for our_part, their_part in parts.items():
                tensors[f"{ours}.{our_part}.{kind}"] = Stored(f"{theirs}.{their_part}.{kind}")
            sizes, fused = 3 * (config.head_size,), f"{theirs}.attention.query_key_value.{kind}"
            for piece, name in enumerate(("query", "key", "value") if biased else ()):
                stored = Stored(fused, piece=piece, sizes=sizes, groups=config.num_heads)
                tensors[f"{ours}.attention.{name}.{kind}"] = stored
    if not config.tie_embeddings:
        tensors["head.weight"] = Stored("embed_out.weight")
    return tensors


GPT_NEOX = Family(
    "GPTNeoXForCausalLM",
    "gpt_neox",
    _read_neox,
    _write_neox,
    _neox_obstacles,
    _neox_tensors,
    (*COMPUTED, ".attention.bias", ".attention.masked_bias"),  # causal masks that old versions stored
)
