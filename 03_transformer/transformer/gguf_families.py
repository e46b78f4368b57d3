"""llama.cpp's architectures: what each has that `llama` has not.

llama.cpp builds some things into its code that other formats write down, such as which layers of Gemma have a window.
A model that differs there cannot be written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformer.config import GPTConfig
from transformer.pretrained_family import ANY, PretrainedError, first_that_has_all_parts, unwanted_parts

Metadata = Mapping[str, Any]
Fields = dict[str, Any]
Wanted = dict[str, tuple[Any, ...]]
QKV = ("attention.query", "attention.key", "attention.value")


@dataclass(frozen=True)
class GGUFFamily:
    """One architecture.

    Args:
        architecture: llama.cpp's name for it, with which its keys begin.
        fields: the fields of `GPTConfig` that are not Llama's.
        wanted: the values that a model may have of other fields; see `unwanted_parts`.
        read: fields that the metadata decides; it gets the keys without the architecture's name, and the common fields.
        write: the keys that `read` reads.
        keys: the names of these keys.
        fused: names of tensors in the file that hold several of our matrices.
        neighbours: whether rotary positions turn dimensions (0, 1), (2, 3), … of a head. The others turn (0, d/2),
            (1, d/2 + 1), … as we do.
        needs_head: whether the file has an output matrix, even if it is the token embedding again.
    """

    architecture: str
    fields: Fields = field(default_factory=dict)
    wanted: Wanted = field(default_factory=dict)
    read: Callable[[Metadata, Fields], Fields] = lambda metadata, fields: {}
    write: Callable[[GPTConfig], dict[str, Any]] = lambda config: {}
    keys: tuple[str, ...] = ()
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    neighbours: bool = False
    needs_head: bool = False

    def obstacles(self, config: GPTConfig) -> list[str]:
        """The parts of a model that this architecture cannot express, in words."""
        wanted = {name: (value,) for name, value in self.fields.items() if name != "attention_bias"}
        if "attention_bias" in self.fields:
            wanted["biased_projections"] = (self.fields["attention_bias"],)
        scaling = config.rope_scaling
        found = unwanted_parts(config, {**wanted, **self.wanted})
        if scaling is not None and scaling.kind == "yarn" and scaling.attention_factor is not None:
            found.append("rope_scaling with an attention_factor")
        if config.positions != "rope" and config.head_size * config.num_heads != config.d_model:
            found.append(f"head_dim {config.head_size}")  # only files with rotary positions say it
        return found


# --- Gemma: windows and scales that llama.cpp knows by itself --------------------------------


def _pattern(num_layers: int, period: int) -> tuple[int, ...] | None:
    """The layers without a window, if the last one of every `period` has none."""
    return tuple(range(period - 1, num_layers, period)) or None


def _gemma_scale(config: Fields, layers_of_27b: int) -> float:
    """Scores are divided by sqrt(head size), except in the model with 27 billion parameters."""
    if config["num_layers"] == layers_of_27b:
        return float((config["d_model"] / config["num_heads"]) ** -0.5)
    return float(config["head_dim"] ** -0.5)


def _read_gemma2(metadata: Metadata, fields: Fields) -> Fields:
    return {
        "sliding_window": metadata.get("attention.sliding_window", 4096),
        "global_layers": _pattern(fields["num_layers"], 2),
        "attention_softcap": metadata.get("attn_logit_softcapping", 50.0),
        "logit_softcap": metadata.get("final_logit_softcapping", 30.0),
        "attention_scale": _gemma_scale(fields, 46),
    }


def _write_gemma2(config: GPTConfig) -> dict[str, Any]:
    return {
        "attention.sliding_window": config.sliding_window,
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
    }


def _read_gemma3(metadata: Metadata, fields: Fields) -> Fields:
    return {
        "sliding_window": metadata["attention.sliding_window"],
        "global_layers": _pattern(fields["num_layers"], 6),
        "attention_scale": _gemma_scale(fields, 62),
        "local_rope_theta": metadata.get("rope.freq_base_swa", 10_000.0),
        "rope_theta": metadata.get("rope.freq_base", 1_000_000.0),
    }


class _Gemma(GGUFFamily):
    """What depends on the number of layers."""

    def obstacles(self, config: GPTConfig) -> list[str]:
        found = super().obstacles(config)
        if self.architecture == "gemma":
            return found
        period, layers_of_27b = (2, 46) if self.architecture == "gemma2" else (6, 62)
        if config.sliding_window is None or config.global_layers != _pattern(config.num_layers, period):
            found.append(f"windows in other layers than {period - 1} of {period}")
        sizes = {**config.to_dict(), "head_dim": config.head_size}
        scale = config.attention_scale or config.head_size**-0.5
        if not math.isclose(scale, _gemma_scale(sizes, layers_of_27b), rel_tol=1e-6):
            found.append(f"attention_scale {scale:g}")
        return found


_GEMMA: Fields = {
    **{"norm": "rmsnorm_plus_one", "feed_forward": "geglu", "scale_embeddings": True, "tie_embeddings": True},
}
_GEMMA_WANTED: Wanted = {"sliding_window": ANY, "global_layers": ANY, "attention_scale": ANY}


# --- the others ------------------------------------------------------------------------------


def _read_neox(metadata: Metadata, fields: Fields) -> Fields:
    turned = metadata.get("rope.dimension_count", fields["head_dim"])
    return {
        "parallel_residual": metadata.get("use_parallel_residual", True),
        "rope_fraction": turned / fields["head_dim"],
    }


def _read_phi3(metadata: Metadata, fields: Fields) -> Fields:
    if metadata.get("attention.sliding_window"):
        raise PretrainedError(
            "a phi3 file with a sliding window: llama.cpp does not use it, the model was trained with it"
        )
    return {"rope_fraction": metadata.get("rope.dimension_count", fields["head_dim"]) / fields["head_dim"]}


def _read_smollm3(metadata: Metadata, fields: Fields) -> Fields:
    return {"layers_without_positions": tuple(range(3, fields["num_layers"], 4))}


class _SmolLM3(GGUFFamily):
    def obstacles(self, config: GPTConfig) -> list[str]:
        found = super().obstacles(config)
        if config.layers_without_positions != tuple(range(3, config.num_layers, 4)):
            found.append("other layers without positions than every fourth")
        return found


_LLAMA_WANTED: Wanted = {"bias": (False, True), "biased_projections": ("none", "all")}
_PLAIN_HEADS: Fields = {"norm": "layernorm", "bias": True, "feed_forward": "gelu_tanh"}

# Where several have all parts of a model, the first one is written.
FAMILIES: tuple[GGUFFamily, ...] = (
    GGUFFamily(
        "gpt2",
        {**_PLAIN_HEADS, "positions": "learned"},
        {"biased_projections": ("all",)},
        fused={"attn_qkv": QKV},
    ),
    GGUFFamily("llama", {}, _LLAMA_WANTED, neighbours=True),
    GGUFFamily("qwen2", {"attention_bias": "qkv"}),
    GGUFFamily("qwen3", {"qk_norm": True}),
    _SmolLM3("smollm3", {}, {"layers_without_positions": ANY}, _read_smollm3, neighbours=True),
    GGUFFamily(
        "phi3",
        {},
        {"rope_fraction": ANY},
        _read_phi3,
        lambda config: {"rope.scaling.original_context_length": config.context_length},
        ("attention.sliding_window",),
        {"attn_qkv": QKV, "ffn_up": ("feed_forward.gate", "feed_forward.up")},
    ),
    GGUFFamily("olmo2", {"norm_position": "output", "qk_norm": True, "qk_norm_across_heads": True}, needs_head=True),
    _Gemma("gemma", _GEMMA),
    _Gemma(
        "gemma2",
        {**_GEMMA, "norm_position": "both"},
        {**_GEMMA_WANTED, "attention_softcap": ANY, "logit_softcap": ANY},
        _read_gemma2,
        _write_gemma2,
        ("attention.sliding_window", "attn_logit_softcapping", "final_logit_softcapping"),
    ),
    _Gemma(
        "gemma3",
        {**_GEMMA, "norm_position": "both", "qk_norm": True},
        {**_GEMMA_WANTED, "local_rope_theta": (10_000.0,)},
        _read_gemma3,
        lambda config: {"attention.sliding_window": config.sliding_window},
        ("attention.sliding_window", "rope.freq_base_swa"),
    ),
    GGUFFamily(
        "gptneox",
        _PLAIN_HEADS,
        {"biased_projections": ("all",), "parallel_residual": ANY, "rope_fraction": ANY},
        _read_neox,
        lambda config: {"use_parallel_residual": config.parallel_residual},
        ("use_parallel_residual",),
        {"attn_qkv": QKV},
        needs_head=True,
    ),
)


def gguf_family_of_model(config: GPTConfig) -> GGUFFamily:
    """The architecture that has all parts of a model.

    Raises:
        PretrainedError: none has; the message says which parts the nearest one lacks.
    """
    return first_that_has_all_parts(FAMILIES, config, "llama.cpp has no architecture with these parts")


def gguf_family(architecture: str) -> GGUFFamily:
    """The architecture that a file names.

    Raises:
        PretrainedError: it is not supported.
    """
    for family in FAMILIES:
        if family.architecture == architecture:
            return family
    supported = ", ".join(family.architecture for family in FAMILIES)
    raise PretrainedError(f"the file holds a model of the architecture {architecture!r}; supported are {supported}")
