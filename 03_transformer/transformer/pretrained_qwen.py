"""Qwen2ForCausalLM and Qwen3ForCausalLM: Llama with biases on queries, keys and values, or with norms of them."""

from __future__ import annotations

from typing import Any

from transformer.config import GPTConfig
from transformer.pretrained_family import ANY, Family, read_windows, require, unwanted_parts, write_windows
from transformer.pretrained_llama import COMPUTED, PRE_NORMS, llama_tensors, read_llama, write_llama


def _windows(hf: dict[str, Any]) -> dict[str, Any]:
    """The first `max_window_layers` layers see everything, and only if `use_sliding_window` the others do not."""
    window = hf.get("sliding_window", 4096) if hf.get("use_sliding_window", False) else None
    return read_windows(hf, window, lambda layer: window is not None and layer >= hf.get("max_window_layers", 28))


def _write_windows(config: GPTConfig) -> dict[str, Any]:
    return {**write_windows(config), "use_sliding_window": config.sliding_window is not None, "max_window_layers": 0}


def _read_qwen2(hf: dict[str, Any]) -> GPTConfig:
    require(hf, "hidden_act", "silu")
    return read_llama(hf, attention_bias="qkv", **_windows(hf))


def _read_qwen3(hf: dict[str, Any]) -> GPTConfig:
    require(hf, "hidden_act", "silu")
    biased = "all" if hf.get("attention_bias", False) else "none"
    hf = {"head_dim": 128, **hf}
    return read_llama(hf, qk_norm=True, qk_norm_weight=True, attention_bias=biased, **_windows(hf))


def _write_qwen3(config: GPTConfig) -> dict[str, Any]:
    biased = config.biased_projections == "all"
    return {**write_llama(config), **_write_windows(config), "attention_bias": biased}


_WINDOWS: dict[str, tuple[Any, ...]] = {"sliding_window": ANY, "global_layers": ANY}

QWEN2 = Family(
    "Qwen2ForCausalLM",
    "qwen2",
    _read_qwen2,
    lambda config: {**write_llama(config), **_write_windows(config)},
    lambda config: unwanted_parts(
        config,
        {**_WINDOWS, "biased_projections": ("qkv",), "head_size": (config.d_model // config.num_heads,)},
    ),
    lambda config: llama_tensors(config, PRE_NORMS),
    COMPUTED,
)
QWEN3 = Family(
    "Qwen3ForCausalLM",
    "qwen3",
    _read_qwen3,
    _write_qwen3,
    lambda config: unwanted_parts(config, {**_WINDOWS, "qk_norm": (True,), "biased_projections": ("none", "all")}),
    lambda config: llama_tensors(config, PRE_NORMS),
)
