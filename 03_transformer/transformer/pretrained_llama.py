"""LlamaForCausalLM and Qwen3ForCausalLM: their names for the parts of `GPTModel`.

Qwen3 is Llama with normalised queries and keys.
"""

from __future__ import annotations

from typing import Any

from transformer.config import GPTConfig
from transformer.pretrained_family import Family, PretrainedError, Stored, require, unwanted_parts
from transformer.rope_scaling import RopeScaling


def _read_llama(hf: dict[str, Any]) -> GPTConfig:
    require(hf, "hidden_act", "silu")
    require(hf, "partial_rotary_factor", 1.0, None)
    biased = bool(hf.get("attention_bias", False))
    if biased != bool(hf.get("mlp_bias", False)):
        raise PretrainedError(
            "config.json has biases in attention or in the feed-forward alone; both or none is supported"
        )
    theta, scaling = _read_rope(hf)
    return GPTConfig.from_dict(
        {
            "vocab_size": hf["vocab_size"],
            "context_length": hf["max_position_embeddings"],
            "num_layers": hf["num_hidden_layers"],
            "num_heads": hf["num_attention_heads"],
            "num_kv_heads": hf.get("num_key_value_heads"),
            "head_dim": hf.get("head_dim"),
            "d_model": hf["hidden_size"],
            "d_ff": hf["intermediate_size"],
            "norm": "rmsnorm",
            "norm_eps": hf.get("rms_norm_eps", 1e-6),
            "feed_forward": "swiglu",
            "positions": "rope",
            "rope_theta": theta,
            "rope_scaling": scaling,
            "bias": biased,
            "tie_embeddings": hf.get("tie_word_embeddings", False),
        }
    )


def _read_rope(hf: dict[str, Any]) -> tuple[float, RopeScaling | None]:
    """Base and scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before)."""
    parameters = {"rope_theta": hf.get("rope_theta", 10_000.0), **(hf.get("rope_scaling") or {})}
    parameters.update(hf.get("rope_parameters") or {})
    require(parameters, "partial_rotary_factor", 1.0)
    theta = float(parameters["rope_theta"])
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind not in ("linear", "yarn", "llama3"):
        raise PretrainedError(f"config.json has rope_type {kind!r}; supported are default, linear, yarn and llama3")
    for name in ("mscale", "mscale_all_dim"):
        require(parameters, name, None, 0)
    require(parameters, "truncate", True)
    original = parameters.get("original_max_position_embeddings", hf["max_position_embeddings"])
    names = ("beta_fast", "beta_slow", "attention_factor", "low_freq_factor", "high_freq_factor")
    given = {name: parameters[name] for name in names if parameters.get(name) is not None}
    return theta, RopeScaling(kind, float(parameters["factor"]), None if kind == "linear" else original, **given)


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


def _read_qwen3(hf: dict[str, Any]) -> GPTConfig:
    if hf.get("use_sliding_window") and hf.get("max_window_layers", 0) < hf["num_hidden_layers"]:
        raise PretrainedError("config.json has sliding windows in some layers only, which is not supported")
    llama = _read_llama({"head_dim": 128, **hf})
    return GPTConfig.from_dict({**llama.to_dict(), "qk_norm": True, "qk_norm_weight": True})


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
