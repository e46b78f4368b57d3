"""LlamaForCausalLM and Qwen3ForCausalLM: their names for the parts of `GPTModel`.

Qwen3 is Llama with normalised queries and keys.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from groundwork.foreign_settings import ForeignSettings
from groundwork.user_errors import brief
from transformer.config import GPTConfig
from transformer.pretrained_family import Family, PretrainedError, Stored, unwanted_parts
from transformer.rope_scaling import RopeScaling


def _read_llama(hf: ForeignSettings, head_dim: int | None = None) -> GPTConfig:
    hf.one_of("hidden_act", "silu")
    hf.one_of("partial_rotary_factor", None, 1.0)
    _require_full_attention(hf)
    biased = hf.flag("attention_bias", False)
    if biased != hf.flag("mlp_bias", False):
        raise PretrainedError(
            "config.json has biases in attention or in the feed-forward alone; both or none is supported"
        )
    theta, scaling = _read_rope(hf)
    return GPTConfig(
        vocab_size=hf.whole("vocab_size"),
        context_length=hf.whole("max_position_embeddings"),
        num_layers=hf.whole("num_hidden_layers"),
        num_heads=hf.whole("num_attention_heads"),
        num_kv_heads=hf.whole("num_key_value_heads", None),
        head_dim=hf.whole("head_dim", head_dim),
        d_model=hf.whole("hidden_size"),
        d_ff=hf.whole("intermediate_size"),
        norm="rmsnorm",
        norm_eps=hf.number("rms_norm_eps", 1e-6),
        feed_forward="swiglu",
        positions="rope",
        rope_theta=theta,
        rope_scaling=scaling,
        bias=biased,
        tie_embeddings=hf.flag("tie_word_embeddings", False),
    )


def _require_full_attention(hf: ForeignSettings) -> None:
    """Refuse layers that are not of the one kind that a `GPTModel` has: they see all earlier tokens."""
    kinds = hf.value("layer_types", None)
    if kinds is not None and (not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)):
        other = next((kind for kind in kinds if kind != "full_attention"), kinds) if isinstance(kinds, list) else kinds
        raise PretrainedError(f"config.json has layer_types with {brief(other)}; only 'full_attention' is supported")


def _read_rope(hf: ForeignSettings) -> tuple[float, RopeScaling | None]:
    """Base and scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before)."""
    theta = hf.number("rope_theta", 10_000.0)
    older, newer = hf.section("rope_scaling"), hf.section("rope_parameters")
    rope = older if older else newer  # where both are given, transformers takes the older one
    theta = rope.number("rope_theta", theta)
    rope.one_of("partial_rotary_factor", None, 1.0)
    kind = rope.one_of("rope_type" if rope.value("rope_type", None) else "type", "default", "linear", "yarn", "llama3")
    original = rope.whole("original_max_position_embeddings", None) or hf.whole("max_position_embeddings")
    names = ("beta_fast", "beta_slow", "attention_factor", "low_freq_factor", "high_freq_factor")
    given = {name: value for name in names if (value := rope.number(name, None)) is not None}
    for name in ("mscale", "mscale_all_dim"):
        rope.one_of(name, None, 0)
    rope.one_of("truncate", True)
    factor = None if kind == "default" else rope.number("factor")
    rope.refuse_others({"type", "factor", "finetuned"})
    if factor is None:
        return theta, None
    return theta, RopeScaling(kind, factor, None if kind == "linear" else original, **given)


def _write_llama(config: GPTConfig) -> dict[str, Any]:
    theta, scaling = config.rope_theta, config.rope_scaling
    written: dict[str, Any] | None = None
    if scaling is not None and scaling.kind == "ntk":  # a larger base has the same effect
        theta *= scaling.factor ** (config.head_size / (config.head_size - 2))
    elif scaling is not None:
        written = {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind != "linear":
            written["original_max_position_embeddings"] = scaling.original_context_length
        if scaling.kind == "yarn":
            written |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
            if scaling.attention_factor is not None:
                written["attention_factor"] = scaling.attention_factor
        if scaling.kind == "llama3":
            written |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "intermediate_size": config.feed_forward_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": theta,
        "rope_scaling": written,
        "attention_bias": config.bias,
        "mlp_bias": config.bias,
        "tie_word_embeddings": config.tie_embeddings,
    }


def _llama_obstacles(config: GPTConfig) -> list[str]:
    return unwanted_parts(
        config,
        {
            "norm": ("rmsnorm",),
            "norm_position": ("pre",),
            "feed_forward": ("swiglu",),
            "positions": ("rope",),
            "qk_norm": (False,),
            "sliding_window": (None,),
            "logit_softcap": (None,),
        },
    )


def _llama_tensors(config: GPTConfig) -> dict[str, Stored]:
    tensors = {
        "token_embedding.weight": Stored("model.embed_tokens.weight"),
        "final_norm.weight": Stored("model.norm.weight"),
    }
    parts = {
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.o_proj",
        "feed_forward.gate": "mlp.gate_proj",
        "feed_forward.up": "mlp.up_proj",
        "feed_forward.down": "mlp.down_proj",
    }
    for layer in range(config.num_layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        tensors[f"{ours}.attention_norm.weight"] = Stored(f"{theirs}.input_layernorm.weight")
        tensors[f"{ours}.feed_forward_norm.weight"] = Stored(f"{theirs}.post_attention_layernorm.weight")
        for our_part, their_part in parts.items():
            for kind in ("weight", "bias") if config.bias else ("weight",):
                tensors[f"{ours}.{our_part}.{kind}"] = Stored(f"{theirs}.{their_part}.{kind}")
    if not config.tie_embeddings:
        tensors["head.weight"] = Stored("lm_head.weight")
    return tensors


def _read_qwen3(hf: ForeignSettings) -> GPTConfig:
    window, first = hf.value("sliding_window", 4096), hf.whole("max_window_layers", 28)
    windows = hf.flag("use_sliding_window", False) and window is not None and first < hf.whole("num_hidden_layers")
    if windows and hf.value("layer_types", None) is None:  # layer_types decides where it is given
        raise PretrainedError(
            f"config.json has sliding windows of {brief(window)} tokens from layer {first} on, which is not supported"
        )
    hf.whole("num_key_value_heads")  # without it, transformers takes 32, not as many as there are query heads
    return dataclasses.replace(_read_llama(hf, head_dim=128), qk_norm=True, qk_norm_weight=True)


def _write_qwen3(config: GPTConfig) -> dict[str, Any]:
    written = _write_llama(config)
    del written["mlp_bias"]
    return {**written, "use_sliding_window": False}


def _qwen3_obstacles(config: GPTConfig) -> list[str]:
    without = [obstacle for obstacle in _llama_obstacles(config) if not obstacle.startswith("qk_norm")]
    return without + unwanted_parts(config, {"qk_norm": (True,), "bias": (False,)})


def _qwen3_tensors(config: GPTConfig) -> dict[str, Stored]:
    tensors = _llama_tensors(config)
    for layer in range(config.num_layers):
        for ours, theirs in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
            name = f"model.layers.{layer}.self_attn.{theirs}.weight"
            tensors[f"blocks.{layer}.attention.{ours}.weight"] = Stored(name)
    return tensors


LLAMA = Family(
    "LlamaForCausalLM",
    "llama",
    _read_llama,
    _write_llama,
    _llama_obstacles,
    _llama_tensors,
    ignored=(".rotary_emb.inv_freq",),  # computed, not learned
)
QWEN3 = Family("Qwen3ForCausalLM", "qwen3", _read_qwen3, _write_qwen3, _qwen3_obstacles, _qwen3_tensors)
