"""GemmaForCausalLM, Gemma2ForCausalLM and Gemma3ForCausalLM.

All three scale the embeddings, store the scale of a norm minus 1, and have GEGLU. Gemma 2 adds norms after the parts,
soft caps, and windows in every second layer. Gemma 3 has norms of queries and keys instead of soft caps, windows in
five of six layers, and other rotary speeds in these.
"""

from __future__ import annotations

from typing import Any

from groundwork.foreign_settings import ForeignSettings
from transformer.config import GPTConfig
from transformer.pretrained_family import (
    ANY,
    Family,
    PretrainedError,
    read_windows,
    unwanted_parts,
    write_windows,
)
from transformer.pretrained_llama import (
    COMPUTED,
    PRE_NORMS,
    attention_bias,
    llama_tensors,
    read_llama,
    read_rope_section,
    write_llama,
)

_NORMS = {
    "attention_norm": "input_layernorm",
    "attention_output_norm": "post_attention_layernorm",
    "feed_forward_norm": "pre_feedforward_layernorm",
    "feed_forward_output_norm": "post_feedforward_layernorm",
}


def _read_gemma(hf: ForeignSettings, **different: Any) -> GPTConfig:
    # The first files say "gelu", and mean the approximation; the class reads them so.
    hf.one_of("hidden_act", "gelu_pytorch_tanh", "gelu", None)
    hf.one_of("hidden_activation", "gelu_pytorch_tanh", "gelu", None)
    hf.one_of("use_bidirectional_attention", None, False)
    parts = {
        "norm": "rmsnorm_plus_one",
        "feed_forward": "geglu",
        "scale_embeddings": True,
        "attention_bias": attention_bias(hf),
        "tie_embeddings": hf.flag("tie_word_embeddings", True),
    }
    return read_llama(hf, head_dim=256, **parts, **different)


def _write_gemma(config: GPTConfig) -> dict[str, Any]:
    return {
        **write_llama(config),
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": config.biased_projections == "all",
    }


def _read_gemma2(hf: ForeignSettings) -> GPTConfig:
    return _read_gemma(
        hf,
        norm_position="both",
        attention_scale=hf.number("query_pre_attn_scalar", 256) ** -0.5,
        attention_softcap=_softcap(hf, "attn_logit_softcapping", 50.0),
        logit_softcap=_softcap(hf, "final_logit_softcapping", 30.0),
        **read_windows(hf, hf.whole("sliding_window", 4096), lambda layer: layer % 2 == 0),
    )


def _softcap(hf: ForeignSettings, name: str, default: float | None) -> float | None:
    """Null in the file means no cap. Where the field is missing, the cap is the class's own."""
    return None if hf.value(name, default) is None else float(hf.number(name, default))


def _write_later(config: GPTConfig) -> dict[str, Any]:
    scalar = config.head_size if config.attention_scale is None else config.attention_scale**-2
    return {
        **_write_gemma(config),
        **write_windows(config),
        "query_pre_attn_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-6 * scalar else scalar,
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
        # A model without windows still needs a number here.
        "sliding_window": config.sliding_window or config.context_length,
    }


def _read_gemma3(hf: ForeignSettings) -> GPTConfig:
    by_type, length = hf.section("rope_parameters"), hf.whole("max_position_embeddings")
    everywhere, local = by_type.section("full_attention"), by_type.section("sliding_attention")
    by_type.refuse_others(())
    older = hf.section("rope_scaling")
    rope = read_rope_section(older if older else everywhere, hf.number("rope_theta", 1_000_000.0), length)
    local_rope = read_rope_section(local, hf.number("rope_local_base_freq", 10_000.0), length)
    if local_rope["rope_scaling"] is not None:
        raise PretrainedError("config.json scales the positions of layers with a window, which is not supported")
    pattern = hf.whole("sliding_window_pattern", None) or 6
    windows = read_windows(hf, hf.whole("sliding_window", 4096), lambda layer: (layer + 1) % pattern != 0)
    return _read_gemma(
        hf,
        norm_position="both",
        qk_norm=True,
        qk_norm_weight=True,
        attention_scale=hf.number("query_pre_attn_scalar", 256) ** -0.5,
        attention_softcap=_softcap(hf, "attn_logit_softcapping", None),
        logit_softcap=_softcap(hf, "final_logit_softcapping", None),
        **rope,
        **windows,
        local_rope_theta=None if windows["sliding_window"] is None else local_rope["rope_theta"],
    )


def _write_gemma3(config: GPTConfig) -> dict[str, Any]:
    written = _write_later(config)
    everywhere = {"rope_theta": written.pop("rope_theta"), **(written.pop("rope_scaling") or {"rope_type": "default"})}
    local = config.local_rope_theta or everywhere["rope_theta"]
    return {
        **written,
        "rope_parameters": {
            "full_attention": everywhere,
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
        "rope_theta": everywhere["rope_theta"],  # where transformers 4 looks
        "rope_local_base_freq": local,
    }


_HARMLESS = frozenset({"cache_implementation"})
_PARTS: dict[str, tuple[Any, ...]] = {
    "norm": ("rmsnorm_plus_one",),
    "feed_forward": ("geglu",),
    "scale_embeddings": (True,),
    "biased_projections": ("none", "all"),
}
_LATER: dict[str, tuple[Any, ...]] = {
    **_PARTS,
    **{"norm_position": ("both",), "sliding_window": ANY, "global_layers": ANY},
    **{"attention_scale": ANY, "attention_softcap": ANY, "logit_softcap": ANY},
}

GEMMA = Family(
    "GemmaForCausalLM",
    "gemma",
    _read_gemma,
    _write_gemma,
    lambda config: unwanted_parts(config, _PARTS),
    lambda config: llama_tensors(config, PRE_NORMS),
    COMPUTED,
    _HARMLESS,
)
GEMMA2 = Family(
    "Gemma2ForCausalLM",
    "gemma2",
    _read_gemma2,
    _write_later,
    lambda config: unwanted_parts(config, _LATER),
    lambda config: llama_tensors(config, _NORMS),
    COMPUTED,
    _HARMLESS,
)
GEMMA3 = Family(
    "Gemma3ForCausalLM",
    "gemma3_text",
    _read_gemma3,
    _write_gemma3,
    lambda config: unwanted_parts(config, {**_LATER, "qk_norm": (True,), "local_rope_theta": ANY}),
    lambda config: llama_tensors(config, _NORMS),
    COMPUTED,
    _HARMLESS | {"_sliding_window_pattern"},  # transformers writes it beside layer_types, and does not read it
)
