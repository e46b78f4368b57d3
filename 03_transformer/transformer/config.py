"""`GPTConfig`: the parts of a model by name, checked before anything is built."""

from __future__ import annotations

import dataclasses
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
        norm: `layernorm` (GPT-2) or `rmsnorm` (Llama).
        norm_eps: added under the square root of the norm.
        norm_position: `pre`, before each part of a block (GPT-2, Llama), or `post`, after the
            residual sum (Vaswani et al., 2017).
        feed_forward: `relu`, `gelu`, `gelu_tanh` (GPT-2), `relu2` or `swiglu` (Llama).
        positions: `learned` (GPT-2), `rope` (Llama), `sinusoidal`, `alibi` or `none`.
        rope_theta: base of the rotary speeds.
        rope_scaling: stretches rotary positions over a longer context than the trained one.
        sliding_window: how many tokens a token sees, including itself; null for all before it.
        attention_sinks: how many first tokens stay visible with any window.
        qk_norm: normalise queries and keys.
        qk_norm_weight: learn a scale for each dimension of that norm (Qwen3).
        bias: add biases in projections and layer norms (GPT-2 has them, Llama does not).
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
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    norm_eps: float = 1e-5
    norm_position: Literal["pre", "post"] = "pre"
    feed_forward: Literal["relu", "gelu", "gelu_tanh", "relu2", "swiglu"] = "swiglu"
    positions: Literal["learned", "rope", "sinusoidal", "alibi", "none"] = "rope"
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    sliding_window: int | None = None
    attention_sinks: int = 0
    qk_norm: bool = False
    qk_norm_weight: bool = False
    bias: bool = False
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
        if self.positions == "rope" and self.head_size % 2:
            raise ValueError(f"rotary positions need an even head size, got {self.head_size}")
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ValueError(f"sinusoidal positions need an even model.d_model, got {self.d_model}")
        if self.rope_scaling is not None and self.positions != "rope":
            raise ValueError(f"model.rope_scaling needs positions 'rope', got {self.positions!r}")
        if self.rope_scaling is not None and self.rope_scaling.kind == "yarn" and self.rope_theta <= 1:
            raise ValueError(f"rope scaling 'yarn' needs model.rope_theta above 1, got {self.rope_theta}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"model.dropout must be at least 0 and below 1, got {self.dropout}")
        if not (self.norm_eps > 0 and self.rope_theta > 0):  # also false for nan
            raise ValueError("model.norm_eps and model.rope_theta must be above 0")
        if self.logit_softcap is not None and not self.logit_softcap > 0:
            raise ValueError(f"model.logit_softcap must be above 0, got {self.logit_softcap}")
        if self.attention_sinks < 0 or (self.attention_sinks and self.sliding_window is None):
            raise ValueError("model.attention_sinks must not be negative, and needs model.sliding_window")
        if self.qk_norm_weight and not self.qk_norm:
            raise ValueError("model.qk_norm_weight needs model.qk_norm")

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
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All fields in JSON types."""
        return dataclasses.asdict(self)

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
