"""LlamaForCausalLM, and the classes that differ from it in a line or two: Mistral and SmolLM3.

Most families use Llama's names. Their files take the functions here and say what is different.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformer.config import GPTConfig
from transformer.pretrained_family import (
    ANY,
    Family,
    PretrainedError,
    Stored,
    read_windows,
    require,
    unwanted_parts,
    write_windows,
)
from transformer.rope_scaling import RopeScaling

COMPUTED = (".rotary_emb.inv_freq",)  # stored by old versions; computed, not learned
# Norms of a block: our names, theirs. OLMo 2 and Gemma have them in other places.
PRE_NORMS = {"attention_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm"}
PARTS = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}


def read_llama(hf: dict[str, Any], **different: Any) -> GPTConfig:
    """A configuration with Llama's parts, out of Llama's names for its sizes.

    Args:
        hf: content of `config.json`.
        different: fields of `GPTConfig` that this family has otherwise.

    Raises:
        PretrainedError: a setting has a value that is not supported.
    """
    theta, scaling = read_rope(hf)
    fraction = read_rope_fraction(hf)
    if fraction != different.get("rope_fraction", 1.0):
        raise PretrainedError(f"config.json turns {fraction:g} of each head, which this family does not")
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
            "tie_embeddings": hf.get("tie_word_embeddings", False),
            **different,
        }
    )


def read_rope(hf: dict[str, Any], default_theta: float = 10_000.0) -> tuple[float, RopeScaling | None]:
    """Base and scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before).

    Raises:
        PretrainedError: the scaling is of a kind that is not supported.
    """
    parameters = {"rope_theta": hf.get("rope_theta", default_theta), **(hf.get("rope_scaling") or {})}
    parameters.update(hf.get("rope_parameters") or {})
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


def read_rope_fraction(hf: dict[str, Any]) -> float:
    """The share of a head's dimensions that is turned."""
    inside = (hf.get("rope_parameters") or {}).get("partial_rotary_factor")
    return float(inside if inside is not None else hf.get("partial_rotary_factor") or 1.0)


def write_llama(config: GPTConfig) -> dict[str, Any]:
    """What `read_llama` reads."""
    theta, scaling = config.rope_theta, config.rope_scaling
    written: dict[str, Any] | None = None
    if scaling is not None and scaling.kind == "ntk":  # a larger base has the same effect
        theta *= scaling.factor ** (config.rotary_size / (config.rotary_size - 2))
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
        "tie_word_embeddings": config.tie_embeddings,
    }


def llama_tensors(config: GPTConfig, norms: Mapping[str, str]) -> dict[str, Stored]:
    """Where the tensors are, by Llama's names.

    Args:
        config: the model.
        norms: our names of a block's norms → theirs.
    """
    tensors = {
        "token_embedding.weight": Stored("model.embed_tokens.weight"),
        "final_norm.weight": Stored("model.norm.weight"),
    }
    biased = {
        "none": (),
        "qkv": ("attention.query", "attention.key", "attention.value"),
        "all": ("attention.query", "attention.key", "attention.value", "attention.output"),
    }[config.biased_projections]
    for layer in range(config.num_layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        for our_norm, their_norm in norms.items():
            tensors[f"{ours}.{our_norm}.weight"] = Stored(f"{theirs}.{their_norm}.weight")
        if config.qk_norm:
            tensors[f"{ours}.attention.query_norm.weight"] = Stored(f"{theirs}.self_attn.q_norm.weight")
            tensors[f"{ours}.attention.key_norm.weight"] = Stored(f"{theirs}.self_attn.k_norm.weight")
        for our_part, their_part in PARTS.items():
            tensors[f"{ours}.{our_part}.weight"] = Stored(f"{theirs}.{their_part}.weight")
            if our_part in biased or (config.bias and our_part.startswith("feed_forward")):
                tensors[f"{ours}.{our_part}.bias"] = Stored(f"{theirs}.{their_part}.bias")
    if not config.tie_embeddings:
        tensors["head.weight"] = Stored("lm_head.weight")
    return tensors


def biases(hf: dict[str, Any]) -> dict[str, Any]:
    """Llama's two flags for biases, in our terms."""
    return {
        "bias": bool(hf.get("mlp_bias", False)),
        "attention_bias": "all" if hf.get("attention_bias", False) else "none",
    }


def _read_plain(hf: dict[str, Any]) -> GPTConfig:
    require(hf, "hidden_act", "silu")
    return read_llama(hf, **biases(hf))


def _write_plain(config: GPTConfig) -> dict[str, Any]:
    return {
        **write_llama(config),
        "attention_bias": config.biased_projections == "all",
        "mlp_bias": config.bias,
    }


_BIASES: dict[str, tuple[Any, ...]] = {"bias": (False, True), "biased_projections": ("none", "all")}

LLAMA = Family(
    "LlamaForCausalLM",
    "llama",
    _read_plain,
    _write_plain,
    lambda config: unwanted_parts(config, _BIASES),
    lambda config: llama_tensors(config, PRE_NORMS),
    COMPUTED,
)


def _read_mistral(hf: dict[str, Any]) -> GPTConfig:
    require(hf, "hidden_act", "silu")
    return read_llama(hf, sliding_window=hf.get("sliding_window", 4096))


MISTRAL = Family(
    "MistralForCausalLM",
    "mistral",
    _read_mistral,
    lambda config: {**write_llama(config), "sliding_window": config.sliding_window},
    lambda config: unwanted_parts(config, {"sliding_window": ANY}),
    lambda config: llama_tensors(config, PRE_NORMS),
    COMPUTED,
)


def _read_smollm3(hf: dict[str, Any]) -> GPTConfig:
    require(hf, "hidden_act", "silu")
    interval, num_layers = hf.get("no_rope_layer_interval", 4), hf["num_hidden_layers"]
    with_positions = hf.get("no_rope_layers") or [(layer + 1) % interval != 0 for layer in range(num_layers)]
    theta, scaling = read_rope(hf, 2_000_000.0)
    window = hf.get("sliding_window") if hf.get("use_sliding_window") else None
    return read_llama(
        hf,
        **{**biases(hf), "rope_theta": theta, "rope_scaling": scaling},
        tie_embeddings=hf.get("tie_word_embeddings", True),
        layers_without_positions=tuple(layer for layer, turned in enumerate(with_positions) if not turned),
        **read_windows(hf, window, lambda layer: bool(with_positions[layer])),
    )


def _write_smollm3(config: GPTConfig) -> dict[str, Any]:
    without = config.layers_without_positions
    return {
        **_write_plain(config),
        **write_windows(config),
        "use_sliding_window": config.sliding_window is not None,
        "no_rope_layers": [int(layer not in without) for layer in range(config.num_layers)],
        "pad_token_id": None,  # the class's own is an id that only the published vocabulary has
    }


SMOLLM3 = Family(
    "SmolLM3ForCausalLM",
    "smollm3",
    _read_smollm3,
    _write_smollm3,
    lambda config: unwanted_parts(
        config,
        {
            **_BIASES,
            "layers_without_positions": ANY,
            "sliding_window": ANY,
            "global_layers": ANY,
            "head_size": (config.d_model // config.num_heads,),
        },
    ),
    lambda config: llama_tensors(config, PRE_NORMS),
    COMPUTED,
)
