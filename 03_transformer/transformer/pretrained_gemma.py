"""GemmaForCausalLM, Gemma2ForCausalLM and Gemma3ForCausalLM.

All three scale the embeddings, store the scale of a norm minus 1, and have GEGLU. Gemma 2 adds norms after the parts,
soft caps, and windows in every second layer. Gemma 3 has norms of queries and keys instead of soft caps, windows in
five of six layers, and other rotary speeds in these.
"""

from __future__ import annotations

from typing import Any

from transformer.config import GPTConfig
from transformer.pretrained_family import (
    ANY,
    Family,
    PretrainedError,
    read_windows,
    require,
    unwanted_parts,
    write_windows,
)
from transformer.pretrained_llama import COMPUTED, PRE_NORMS, llama_tensors, read_llama, read_rope, write_llama

_NORMS = {
    "attention_norm": "input_layernorm",
    "attention_output_norm": "post_attention_layernorm",
    "feed_forward_norm": "pre_feedforward_layernorm",
    "feed_forward_output_norm": "post_feedforward_layernorm",
}


def _read_gemma(hf: dict[str, Any], **different: Any) -> GPTConfig:
    # The first files say "gelu", and mean the approximation; the class reads them so.
    require(hf, "hidden_act", "gelu_pytorch_tanh", "gelu", None)
    require(hf, "hidden_activation", "gelu_pytorch_tanh", "gelu", None)
    require(hf, "use_bidirectional_attention", None, False)
    parts = {
        "norm": "rmsnorm_plus_one",
        "feed_forward": "geglu",
        "scale_embeddings": True,
        "attention_bias": "all" if hf.get("attention_bias", False) else "none",
        "tie_embeddings": hf.get("tie_word_embeddings", True),
    }
    return read_llama({"head_dim": 256, **hf}, **parts, **different)


def _write_gemma(config: GPTConfig) -> dict[str, Any]:
    return {
        **write_llama(config),
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": config.biased_projections == "all",
    }


def _read_gemma2(hf: dict[str, Any]) -> GPTConfig:
    return _read_gemma(
        hf,
        norm_position="both",
        attention_scale=hf.get("query_pre_attn_scalar", 256) ** -0.5,
        attention_softcap=hf.get("attn_logit_softcapping", 50.0),
        logit_softcap=hf.get("final_logit_softcapping", 30.0),
        **read_windows(hf, hf.get("sliding_window", 4096), lambda layer: layer % 2 == 0),
    )


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


def _read_gemma3(hf: dict[str, Any]) -> GPTConfig:
    by_type = hf.get("rope_parameters") or {}
    everywhere = {**hf, "rope_parameters": by_type.get("full_attention") or None}
    theta, scaling = read_rope(everywhere, 1_000_000.0)
    local = {"rope_theta": hf.get("rope_local_base_freq", 10_000.0), **(by_type.get("sliding_attention") or {})}
    require(local, "rope_type", "default")
    pattern = hf.get("sliding_window_pattern") or hf.get("_sliding_window_pattern") or 6
    windows = read_windows(hf, hf.get("sliding_window", 4096), lambda layer: (layer + 1) % pattern != 0)
    if by_type and not {"full_attention", "sliding_attention"} & by_type.keys():
        raise PretrainedError("config.json has rope_parameters without full_attention and sliding_attention")
    return _read_gemma(
        {**everywhere, "rope_parameters": None, "rope_scaling": None},
        norm_position="both",
        qk_norm=True,
        qk_norm_weight=True,
        attention_scale=hf.get("query_pre_attn_scalar", 256) ** -0.5,
        attention_softcap=hf.get("attn_logit_softcapping"),
        logit_softcap=hf.get("final_logit_softcapping"),
        **{"rope_theta": theta, "rope_scaling": scaling, **windows},
        local_rope_theta=None if windows["sliding_window"] is None else float(local["rope_theta"]),
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
)
GEMMA2 = Family(
    "Gemma2ForCausalLM",
    "gemma2",
    _read_gemma2,
    _write_later,
    lambda config: unwanted_parts(config, _LATER),
    lambda config: llama_tensors(config, _NORMS),
    COMPUTED,
)
GEMMA3 = Family(
    "Gemma3ForCausalLM",
    "gemma3_text",
    _read_gemma3,
    _write_gemma3,
    lambda config: unwanted_parts(config, {**_LATER, "qk_norm": (True,), "local_rope_theta": ANY}),
    lambda config: llama_tensors(config, _NORMS),
    COMPUTED,
)
