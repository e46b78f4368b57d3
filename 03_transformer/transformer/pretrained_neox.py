"""GPTNeoXForCausalLM (Pythia): attention and feed-forward side by side, and a part of each head turned."""

from __future__ import annotations

from typing import Any

from groundwork.foreign_settings import ForeignSettings
from transformer.config import GPTConfig
from transformer.pretrained_family import ANY, Family, Stored, unwanted_parts
from transformer.pretrained_llama import COMPUTED, attention_bias, read_rope

_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}


def _read_neox(hf: ForeignSettings) -> GPTConfig:
    names = {theirs: ours for ours, theirs in _ACTIVATIONS.items()}
    names |= {"gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh"}
    older = {"rope_fraction": hf.number("rotary_pct", 0.25)}
    rope = read_rope(hf, hf.number("rotary_emb_base", 10_000.0), partial=True)
    if hf.section("rope_parameters").value("partial_rotary_factor", None) is None:
        rope |= older
    return GPTConfig.from_dict(
        {
            "vocab_size": hf.whole("vocab_size"),
            "context_length": hf.whole("max_position_embeddings"),
            "num_layers": hf.whole("num_hidden_layers"),
            "num_heads": hf.whole("num_attention_heads"),
            "d_model": hf.whole("hidden_size"),
            "d_ff": hf.whole("intermediate_size"),
            "norm": "layernorm",
            "norm_eps": hf.number("layer_norm_eps", 1e-5),
            "parallel_residual": hf.flag("use_parallel_residual", True),
            "feed_forward": names[hf.one_of("hidden_act", *names)],
            "positions": "rope",
            **rope,
            "bias": True,
            "attention_bias": attention_bias(hf, True),
            "tie_embeddings": hf.flag("tie_word_embeddings", False),
        }
    )


def _write_neox(config: GPTConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "intermediate_size": config.feed_forward_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "hidden_act": _ACTIVATIONS[config.feed_forward],
        "layer_norm_eps": config.norm_eps,
        "rotary_pct": config.rope_fraction,
        "rotary_emb_base": config.rope_theta,
        "use_parallel_residual": config.parallel_residual,
        "attention_bias": config.biased_projections == "all",
        "tie_word_embeddings": config.tie_embeddings,
    }


def _neox_obstacles(config: GPTConfig) -> list[str]:
    return unwanted_parts(
        config,
        {
            "norm": ("layernorm",),
            "parallel_residual": ANY,
            "feed_forward": tuple(_ACTIVATIONS),
            "rope_fraction": ANY,
            "bias": (True,),
            "biased_projections": ("none", "all"),
            "kv_heads": (config.num_heads,),
            "head_size": (config.d_model // config.num_heads,),
            "rope_scaling": (None,),
        },
    )


def _neox_tensors(config: GPTConfig) -> dict[str, Stored]:
    tensors = {"token_embedding.weight": Stored("gpt_neox.embed_in.weight")}
    for kind in ("weight", "bias"):
        tensors[f"final_norm.{kind}"] = Stored(f"gpt_neox.final_layer_norm.{kind}")
        biased = kind == "weight" or config.biased_projections == "all"
        for layer in range(config.num_layers):
            ours, theirs = f"blocks.{layer}", f"gpt_neox.layers.{layer}"
            parts = {
                "attention_norm": "input_layernorm",
                "feed_forward_norm": "post_attention_layernorm",
                "feed_forward.up": "mlp.dense_h_to_4h",
                "feed_forward.down": "mlp.dense_4h_to_h",
                **({"attention.output": "attention.dense"} if biased else {}),
            }
            for our_part, their_part in parts.items():
                tensors[f"{ours}.{our_part}.{kind}"] = Stored(f"{theirs}.{their_part}.{kind}")
            sizes, fused = 3 * (config.head_size,), f"{theirs}.attention.query_key_value.{kind}"
            for piece, name in enumerate(("query", "key", "value") if biased else ()):
                stored = Stored(fused, piece=piece, sizes=sizes, groups=config.num_heads)
                tensors[f"{ours}.attention.{name}.{kind}"] = stored
    if not config.tie_embeddings:
        tensors["head.weight"] = Stored("embed_out.weight")
    return tensors


GPT_NEOX = Family(
    "GPTNeoXForCausalLM",
    "gpt_neox",
    _read_neox,
    _write_neox,
    _neox_obstacles,
    _neox_tensors,
    (*COMPUTED, ".attention.bias", ".attention.masked_bias"),  # causal masks that old versions stored
    frozenset({"hidden_dropout", "classifier_dropout"}),
)
