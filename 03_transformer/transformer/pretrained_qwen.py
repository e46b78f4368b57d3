"""Qwen2ForCausalLM and Qwen3ForCausalLM: Llama with biases on queries, keys and values, or with norms of them."""

from __future__ import annotations

from typing import Any

from groundwork.foreign_settings import ForeignSettings
from transformer.config import GPTConfig
from transformer.pretrained_family import ANY, Family, read_windows, unwanted_parts, write_windows
from transformer.pretrained_llama import COMPUTED, PRE_NORMS, attention_bias, llama_tensors, read_llama, write_llama


def _windows(hf: ForeignSettings) -> dict[str, Any]:
    """The first `max_window_layers` layers see everything, and only if `use_sliding_window` the others do not."""
    first, size = hf.whole("max_window_layers", 28), hf.whole("sliding_window", None)
    window = (size or 4096) if hf.flag("use_sliding_window", False) else None
    return read_windows(hf, window, lambda layer: window is not None and layer >= first)


def _write_windows(config: GPTConfig) -> dict[str, Any]:
    return {**write_windows(config), "use_sliding_window": config.sliding_window is not None, "max_window_layers": 0}


def _read_qwen2(hf: ForeignSettings) -> GPTConfig:
    hf.one_of("hidden_act", "silu")
    return read_llama(hf, attention_bias="qkv", **_windows(hf))


def _read_qwen3(hf: ForeignSettings) -> GPTConfig:
    hf.one_of("hidden_act", "silu")
    hf.whole("num_key_value_heads")  # without it, transformers takes 32, not as many as there are query heads
    biased = attention_bias(hf)
    return read_llama(hf, head_dim=128, qk_norm=True, qk_norm_weight=True, attention_bias=biased, **_windows(hf))


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
