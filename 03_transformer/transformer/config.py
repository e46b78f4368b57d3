"""`GPTConfig`: the parts of a model by name, checked before anything is built."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from groundwork.user_errors import brief, require_choices, require_types
from transformer.feed_forward import default_d_ff
from transformer.rope_scaling import RopeScaling


@dataclass(frozen=True)
class GPTConfig:
    """What a `GPTModel` is made of.

    Args:
        vocab_size: number of token ids; null takes that of the tokenizer in training.
        context_length: the most tokens the model sees at once.
        num_layers: transformer blocks.
        num_heads: query heads of attention; must divide `d_model` unless `head_dim` is given.
        num_kv_heads: key-value heads; null for the same number as `num_heads`.
        head_dim: size of a head's vectors; null for d_model / num_heads.
        d_model: width of the residual stream.
        d_ff: inner width of the feed-forward; null for 4 · d_model (8/3 of it for swiglu).
        norm: `layernorm` (GPT-2), `rmsnorm` (Llama) or `rmsnorm_plus_one`, whose stored weights are the scale minus
            1 (Gemma).
        norm_eps: added under the square root of the norm.
        norm_position: `pre`, before each part of a block (GPT-2, Llama); `output`, after each part and before the
            residual sum (OLMo 2); `both`, before and after each part (Gemma 2); or `post`, after the residual sum
            (Vaswani et al., 2017).
        parallel_residual: attention and feed-forward read the same residual stream, and both are added to it
            (GPT-NeoX); otherwise the feed-forward reads what attention has added.
        feed_forward: `relu`, `gelu`, `gelu_tanh` (GPT-2), `relu2`, `swiglu` (Llama) or `geglu` (Gemma).
        positions: `learned` (GPT-2), `rope` (Llama), `sinusoidal`, `alibi` or `none`.
        rope_theta: base of the rotary speeds.
        rope_scaling: stretches rotary positions over a longer context than the trained one.
        rope_fraction: share of each head's dimensions that rotary positions turn (GPT-NeoX).
        layers_without_positions: layers, counted from 0, that do not turn queries and keys (SmolLM3).
        sliding_window: how many tokens a token sees, including itself; null for all before it.
        global_layers: layers, counted from 0, that see all tokens in spite of `sliding_window` (Gemma); null for none.
        local_rope_theta: base of the rotary speeds in the layers with a window, which then have no scaling (Gemma 3);
            null for the same as in other layers.
        attention_sinks: how many first tokens stay visible with any window.
        attention_scale: scores are multiplied by it; null for 1 / sqrt(head size).
        attention_softcap: keep scores smoothly within ± this, as `logit_softcap` does with logits (Gemma 2).
        qk_norm: normalise queries and keys.
        qk_norm_weight: learn a scale for each dimension of that norm (Qwen3).
        qk_norm_across_heads: normalise all heads of a token together instead of each head (OLMo 2).
        bias: add biases in projections and layer norms (GPT-2 has them, Llama does not).
        attention_bias: which projections of attention have a bias: `none`, `qkv` (Qwen2) or `all`; null: as `bias`.
        scale_embeddings: multiply token embeddings by sqrt(d_model) (Gemma).
        tie_embeddings: the output head is the token embedding itself.
        logit_softcap: keep logits smoothly within ± this by softcap · tanh(logits / softcap); null for no limit.
        zero_init_residual: start each block's output projections at zero, so that the untrained
            model passes its input through; otherwise they start small, as in GPT-2.
        dropout: probability of dropping an activation while training.
    """

    vocab_size: int | None = None
    context_length: int = 256
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int | None = None
    head_dim: int | None = None
    d_model: int = 256
    d_ff: int | None = None
    norm: Literal["layernorm", "rmsnorm", "rmsnorm_plus_one"] = "rmsnorm"
    norm_eps: float = 1e-5
    norm_position: Literal["pre", "output", "both", "post"] = "pre"
    parallel_residual: bool = False
    feed_forward: Literal["relu", "gelu", "gelu_tanh", "relu2", "swiglu", "geglu"] = "swiglu"
    positions: Literal["learned", "rope", "sinusoidal", "alibi", "none"] = "rope"
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    rope_fraction: float = 1.0
    layers_without_positions: tuple[int, ...] = ()
    sliding_window: int | None = None
    global_layers: tuple[int, ...] | None = None
    local_rope_theta: float | None = None
    attention_sinks: int = 0
    attention_scale: float | None = None
    attention_softcap: float | None = None
    qk_norm: bool = False
    qk_norm_weight: bool = False
    qk_norm_across_heads: bool = False
    bias: bool = False
    attention_bias: Literal["none", "qkv", "all"] | None = None
    scale_embeddings: bool = False
    tie_embeddings: bool = True
    logit_softcap: float | None = None
    zero_init_residual: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_types(self, "model")
        require_choices(self, "model")
        sizes = ("vocab_size", "context_length", "num_layers", "num_heads", "num_kv_heads", "head_dim", "d_model")
        for name in (*sizes, "d_ff", "sliding_window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"model.{name} must be at least 1, got {value}")
        if self.head_dim is None and self.d_model % self.num_heads:
            raise ValueError(
                f"model.num_heads must divide model.d_model: {self.d_model} / {self.num_heads} is not whole"
            )
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"model.num_kv_heads must divide model.num_heads: {self.num_heads} / {self.num_kv_heads} is not whole"
            )
        if not 0 < self.rope_fraction <= 1:
            raise ValueError(f"model.rope_fraction must be above 0 and at most 1, got {self.rope_fraction}")
        if self.positions == "rope" and self.rotary_size % 2:
            raise ValueError(f"rotary positions need an even number of dimensions, got {self.rotary_size} of a head")
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ValueError(f"sinusoidal positions need an even model.d_model, got {self.d_model}")
        if self.rope_scaling is not None and self.rope_scaling.kind == "yarn" and self.rope_theta <= 1:
            raise ValueError(f"rope scaling 'yarn' needs model.rope_theta above 1, got {self.rope_theta}")
        for name in ("rope_scaling", "local_rope_theta", "layers_without_positions"):
            if getattr(self, name) and self.positions != "rope":
                raise ValueError(f"model.{name} needs positions 'rope', got {self.positions!r}")
        for name in ("global_layers", "layers_without_positions"):
            for layer in getattr(self, name) or ():
                if not 0 <= layer < self.num_layers:
                    raise ValueError(f"model.{name} names layer {layer}; layers are 0 to {self.num_layers - 1}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"model.dropout must be at least 0 and below 1, got {self.dropout}")
        if not (self.norm_eps > 0 and self.rope_theta > 0):  # also false for nan
            raise ValueError("model.norm_eps and model.rope_theta must be above 0")
        for name in ("logit_softcap", "attention_softcap", "attention_scale", "local_rope_theta"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"model.{name} must be above 0 and finite, got {value}")
        for name in ("global_layers", "local_rope_theta"):
            if getattr(self, name) is not None and self.sliding_window is None:
                raise ValueError(f"model.{name} needs model.sliding_window: without it all layers see all tokens")
        if self.global_layers is not None and self.attention_sinks:
            raise ValueError(
                "model.attention_sinks and model.global_layers cannot be combined: global layers need none"
            )
        if self.attention_sinks < 0 or (self.attention_sinks and self.sliding_window is None):
            raise ValueError("model.attention_sinks must not be negative, and needs model.sliding_window")
        for name in ("qk_norm_weight", "qk_norm_across_heads"):
            if getattr(self, name) and not self.qk_norm:
                raise ValueError(f"model.{name} needs model.qk_norm")
        if self.parallel_residual and self.norm_position != "pre":
            raise ValueError(f"model.parallel_residual needs norm_position 'pre', got {self.norm_position!r}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GPTConfig:
        """The configuration that `to_dict` was called on.

        Raises:
            ValueError: a field is unknown, or a value is impossible.
        """
        values = _known_fields(cls, values, "model")
        if isinstance(values.get("rope_scaling"), dict):
            scaling = _known_fields(RopeScaling, values["rope_scaling"], "rope_scaling")
            if "factor" not in scaling:
                raise ValueError("model.rope_scaling has no factor: how many times longer is the new context?")
            values["rope_scaling"] = RopeScaling(**scaling)
        for name in ("global_layers", "layers_without_positions"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All fields in JSON types."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    def window_of(self, layer: int) -> int | None:
        """How many tokens a token sees in this layer; None for all."""
        return None if layer in (self.global_layers or ()) else self.sliding_window

    @property
    def window_of_all(self) -> int | None:
        """The window, if every layer has it. Otherwise tokens before it are still needed."""
        return self.sliding_window if self.global_layers is None else None

    @property
    def biased_projections(self) -> Literal["none", "qkv", "all"]:
        """Which projections of attention have a bias."""
        return self.attention_bias or ("all" if self.bias else "none")

    @property
    def rotary_size(self) -> int:
        """How many dimensions of each head rotary positions turn."""
        return int(self.head_size * self.rope_fraction)

    @property
    def head_size(self) -> int:
        """Size of one head's query, key and value."""
        return self.head_dim or self.d_model // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Number of key-value heads."""
        return self.num_kv_heads or self.num_heads

    @property
    def feed_forward_width(self) -> int:
        """Inner width of the feed-forward."""
        return self.d_ff or default_d_ff(self.feed_forward, self.d_model)


def _known_fields(kind: type[Any], values: Any, section: str) -> dict[str, Any]:
    """The fields of a dataclass as a file has them.

    Raises:
        ValueError: they are not named fields, or one is unknown.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{section} should hold named fields, it holds a {type(values).__name__}")
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"unknown {section} settings: {', '.join(brief(name, quotes=False) for name in unknown[:5])}")
    return dict(values)
