"""LlamaForCausalLM, and the classes that differ from it in a line or two: Mistral and SmolLM3.

Most families use Llama's names. Their files take the functions here and say what is different.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groundwork.foreign_settings import ForeignSettings
from groundwork.user_errors import brief
from transformer.config import GPTConfig
from transformer.pretrained_family import (
    ANY,
    Family,
    PretrainedError,
    Stored,
    read_windows,
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


def read_llama(hf: ForeignSettings, *, head_dim: int | None = None, eps: float = 1e-6, **different: Any) -> GPTConfig:
    """A configuration with Llama's parts, out of Llama's names for its sizes.

    Args:
        hf: content of `config.json`.
        head_dim: size of a head where the file has none; None for hidden_size / num_attention_heads.
        eps: constant of the norms where the file has none.
        different: fields of `GPTConfig` that this family has otherwise.

    Raises:
        ValueError: a setting is missing, or has a value that is not supported.
    """
    fields: dict[str, Any] = {
        "vocab_size": hf.whole("vocab_size"),
        "context_length": hf.whole("max_position_embeddings"),
        "num_layers": hf.whole("num_hidden_layers"),
        "num_heads": hf.whole("num_attention_heads"),
        "num_kv_heads": hf.whole("num_key_value_heads", None),
        "head_dim": hf.whole("head_dim", head_dim),
        "d_model": hf.whole("hidden_size"),
        "d_ff": hf.whole("intermediate_size"),
        "norm": "rmsnorm",
        "norm_eps": hf.number("rms_norm_eps", eps),
        "feed_forward": "swiglu",
        "positions": "rope",
        "tie_embeddings": hf.flag("tie_word_embeddings", False),
    }
    rope = {} if "rope_theta" in different else read_rope(hf)
    return GPTConfig.from_dict({**fields, **rope, **different})


def read_rope(hf: ForeignSettings, default_theta: float = 10_000.0, partial: bool = False) -> dict[str, Any]:
    """Base, scaling and share of each head, from `rope_parameters` (transformers 5) or `rope_scaling` (before).

    Args:
        hf: content of `config.json`.
        default_theta: base where the file has none.
        partial: whether the family may turn a part of each head.

    Raises:
        ValueError: the scaling is of a kind that is not supported.
    """
    older, newer = hf.section("rope_scaling"), hf.section("rope_parameters")
    rope = older if older else newer  # where both are given, transformers takes the older one
    length = hf.whole("max_position_embeddings")
    fields = read_rope_section(rope, hf.number("rope_theta", default_theta), length, partial)
    outside = hf.number("partial_rotary_factor", None) if partial else hf.one_of("partial_rotary_factor", None, 1.0)
    if partial and outside is not None and not rope.value("partial_rotary_factor", None):
        fields["rope_fraction"] = outside
    return fields


def read_rope_section(rope: ForeignSettings, theta: float, length: int, partial: bool = False) -> dict[str, Any]:
    """What `read_rope` reads, of one kind of layers.

    Args:
        rope: the object with the settings of rotary positions.
        theta: base where the object has none.
        length: context of the training where the object does not say.
        partial: see `read_rope`.
    """
    theta = rope.number("rope_theta", theta)
    fraction = rope.number("partial_rotary_factor", 1.0) if partial else 1.0
    if not partial:
        rope.one_of("partial_rotary_factor", None, 1.0)
    kind = rope.one_of("rope_type" if rope.value("rope_type", None) else "type", "default", "linear", "yarn", "llama3")
    original = rope.whole("original_max_position_embeddings", None) or length
    names = ("beta_fast", "beta_slow", "attention_factor", "low_freq_factor", "high_freq_factor")
    given = {name: value for name in names if (value := rope.number(name, None)) is not None}
    for name in ("mscale", "mscale_all_dim"):
        rope.one_of(name, None, 0)
    rope.one_of("truncate", True)
    factor = None if kind == "default" else rope.number("factor")
    rope.refuse_others({"type", "factor", "finetuned"})
    scaling = None
    if factor is not None:
        scaling = RopeScaling(kind, factor, None if kind == "linear" else original, **given)
    return {"rope_theta": theta, "rope_scaling": scaling, "rope_fraction": fraction}


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


def attention_bias(hf: ForeignSettings, default: bool = False) -> str:
    """The flag `attention_bias`, in our terms."""
    return "all" if hf.flag("attention_bias", default) else "none"


def biases(hf: ForeignSettings) -> dict[str, Any]:
    """Llama's two flags for biases, in our terms."""
    return {"bias": hf.flag("mlp_bias", False), "attention_bias": attention_bias(hf)}


def _read_plain(hf: ForeignSettings) -> GPTConfig:
    hf.one_of("hidden_act", "silu")
    return read_llama(hf, **biases(hf), **read_windows(hf, None, lambda layer: False))


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


def _read_mistral(hf: ForeignSettings) -> GPTConfig:
    hf.one_of("hidden_act", "silu")
    window = hf.value("sliding_window", 4096) and hf.whole("sliding_window", 4096)
    return read_llama(hf, **read_windows(hf, window, lambda layer: True))


MISTRAL = Family(
    "MistralForCausalLM",
    "mistral",
    _read_mistral,
    lambda config: {**write_llama(config), "sliding_window": config.sliding_window},
    lambda config: unwanted_parts(config, {"sliding_window": ANY}),
    lambda config: llama_tensors(config, PRE_NORMS),
    COMPUTED,
)


def _read_smollm3(hf: ForeignSettings) -> GPTConfig:
    hf.one_of("hidden_act", "silu")
    interval, num_layers = hf.whole("no_rope_layer_interval", 4), hf.whole("num_hidden_layers")
    turned = hf.value("no_rope_layers", None) or [(layer + 1) % interval != 0 for layer in range(num_layers)]
    if not isinstance(turned, list) or len(turned) != num_layers:
        raise PretrainedError(f"config.json has no_rope_layers: {brief(turned)}; it should be 0 or 1 for each layer")
    window = hf.whole("sliding_window", None) if hf.flag("use_sliding_window", False) else None
    return read_llama(
        hf,
        **biases(hf),
        **read_rope(hf, 2_000_000.0),
        tie_embeddings=hf.flag("tie_word_embeddings", True),
        layers_without_positions=tuple(layer for layer, rotates in enumerate(turned) if not rotates),
        **read_windows(hf, window, lambda layer: bool(turned[layer])),
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
    frozenset({"max_window_layers", "sliding_window"}),  # they mean nothing without use_sliding_window
)
