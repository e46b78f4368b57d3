"""GPT2LMHeadModel: GPT-2's names for the parts of `GPTModel`.

Its files store matrices as (in, out), and query, key and value of a layer as one matrix.
"""

from __future__ import annotations

from typing import Any

from groundwork.foreign_settings import ForeignSettings
from transformer.config import GPTConfig
from transformer.pretrained_family import Family, Stored, unwanted_parts

_GPT2_ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu"}


def _read_gpt2(hf: ForeignSettings) -> GPTConfig:
    hf.one_of("scale_attn_weights", True)
    hf.one_of("scale_attn_by_inverse_layer_idx", False)
    names = {theirs: ours for ours, theirs in _GPT2_ACTIVATIONS.items()} | {"gelu_pytorch_tanh": "gelu_tanh"}
    return GPTConfig.from_dict(
        {
            "vocab_size": hf.whole("vocab_size"),
            "context_length": hf.whole("n_positions"),
            "num_layers": hf.whole("n_layer"),
            "num_heads": hf.whole("n_head"),
            "d_model": hf.whole("n_embd"),
            "d_ff": hf.whole("n_inner", None),
            "norm": "layernorm",
            "norm_eps": hf.number("layer_norm_epsilon", 1e-5),
            "feed_forward": names[hf.one_of("activation_function", "gelu_new", *names)],
            "positions": "learned",
            "bias": True,
            "tie_embeddings": hf.flag("tie_word_embeddings", True),
        }
    )


def _write_gpt2(config: GPTConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_ctx": config.context_length,
        "n_embd": config.d_model,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.d_ff,
        "activation_function": _GPT2_ACTIVATIONS[config.feed_forward],
        "layer_norm_epsilon": config.norm_eps,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "tie_word_embeddings": config.tie_embeddings,
    }


def _gpt2_obstacles(config: GPTConfig) -> list[str]:
    found = unwanted_parts(
        config,
        {
            "norm": ("layernorm",),
            "feed_forward": tuple(_GPT2_ACTIVATIONS),
            "positions": ("learned",),
            "bias": (True,),
            "biased_projections": ("all",),
            "kv_heads": (config.num_heads,),
        },
    )
    if config.head_size * config.num_heads != config.d_model:
        found.append(f"head_dim {config.head_dim}")
    return found


def _gpt2_tensors(config: GPTConfig) -> dict[str, Stored]:
    tensors = {
        "token_embedding.weight": Stored("transformer.wte.weight"),
        "position_embedding.weight": Stored("transformer.wpe.weight"),
        "final_norm.weight": Stored("transformer.ln_f.weight"),
        "final_norm.bias": Stored("transformer.ln_f.bias"),
    }
    for layer in range(config.num_layers):
        ours, theirs = f"blocks.{layer}", f"transformer.h.{layer}"
        for kind in ("weight", "bias"):
            matrix = kind == "weight"
            tensors[f"{ours}.attention_norm.{kind}"] = Stored(f"{theirs}.ln_1.{kind}")
            tensors[f"{ours}.feed_forward_norm.{kind}"] = Stored(f"{theirs}.ln_2.{kind}")
            for piece, name in enumerate(("query", "key", "value")):
                stored = Stored(f"{theirs}.attn.c_attn.{kind}", matrix, piece, 3 * (config.d_model,))
                tensors[f"{ours}.attention.{name}.{kind}"] = stored
            tensors[f"{ours}.attention.output.{kind}"] = Stored(f"{theirs}.attn.c_proj.{kind}", matrix)
            tensors[f"{ours}.feed_forward.up.{kind}"] = Stored(f"{theirs}.mlp.c_fc.{kind}", matrix)
            tensors[f"{ours}.feed_forward.down.{kind}"] = Stored(f"{theirs}.mlp.c_proj.{kind}", matrix)
    if not config.tie_embeddings:
        tensors["head.weight"] = Stored("lm_head.weight")
    return tensors


GPT2 = Family(
    "GPT2LMHeadModel",
    "gpt2",
    _read_gpt2,
    _write_gpt2,
    _gpt2_obstacles,
    _gpt2_tensors,
    ignored=(".attn.bias", ".attn.masked_bias"),  # causal masks that old versions stored
    # n_ctx repeats n_positions; the summaries belong to other heads; the order of products is one of precision.
    harmless=frozenset(
        [
            "n_ctx",
            "n_special",
            "predict_special_tokens",
            "reorder_and_upcast_attn",
            "attn_pdrop",
            "embd_pdrop",
            "resid_pdrop",
            "summary_activation",
            "summary_first_dropout",
            "summary_proj_to_labels",
            "summary_type",
            "summary_use_proj",
        ]
    ),
)
