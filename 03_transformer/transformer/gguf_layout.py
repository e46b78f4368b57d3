"""How a model lies in a GGUF file: the keys of its sizes, and the names and the order of its tensors.

One definition for both ways: `gguf_reader` reads by it, stage 9's export writes by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from transformer.config import GPTConfig
from transformer.feed_forward import GATED
from transformer.gguf_families import GGUFFamily
from transformer.pretrained_family import PretrainedError, Stored
from transformer.rope_scaling import RopeScaling, rotary_speeds

ROPE_FREQUENCIES = "rope_freqs.weight"  # by how much each pair is slowed; Llama 3.1's scaling is stored so
OUTSIDE = {"token_embedding": "token_embd", "position_embedding": "position_embd", "final_norm": "output_norm"}
MATRICES = {
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.output": "attn_output",
    "feed_forward.gate": "ffn_gate",
    "feed_forward.up": "ffn_up",
    "feed_forward.down": "ffn_down",
}
NORMS = {
    "attention_norm": "attn_norm",
    "feed_forward_norm": "ffn_norm",
    "attention_output_norm": "post_attention_norm",
    "feed_forward_output_norm": "post_ffw_norm",
    "attention.query_norm": "attn_q_norm",
    "attention.key_norm": "attn_k_norm",
}
# Keys that change nothing here: they repeat a size, or say something about training or about llama.cpp.
HARMLESS = ("vocab_size", "rope.scaling.finetuned", "expert_count")
SIZES = (
    *("context_length", "embedding_length", "block_count", "feed_forward_length", "rope.freq_base"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
    "rope.dimension_count",
    *("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"),
    *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scale_linear"),
    *("rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"),
)


def read_sizes(family: GGUFFamily, metadata: Mapping[str, Any], names: set[str], vocab_size: int) -> GPTConfig:
    """The configuration that a file describes, except for the scaling that is stored as a tensor.

    Args:
        family: its architecture.
        metadata: all its keys.
        names: of its tensors.
        vocab_size: rows of the embedding.

    Raises:
        PretrainedError: a key has a value or a name that is not supported.
    """
    prefix = f"{family.architecture}."
    keys = {name.removeprefix(prefix): value for name, value in metadata.items() if name.startswith(prefix)}
    if keys.get("expert_count"):
        raise PretrainedError(f"a mixture of {keys['expert_count']} experts, which is not supported")
    unknown = [name for name in keys if name not in (*SIZES, *HARMLESS, *family.keys)]
    if unknown:
        raise PretrainedError(f"{prefix}{unknown[0]} is {keys[unknown[0]]!r}, a setting that is not supported")
    layers = keys["block_count"]
    if not isinstance(layers, int) or f"blk.{layers - 1}.ffn_down.weight" not in names:
        raise PretrainedError(f"{prefix}block_count is {layers!r}, and the file has other layers")
    head_dim = keys.get("attention.key_length", keys["embedding_length"] // keys["attention.head_count"])
    epsilon = keys.get("attention.layer_norm_rms_epsilon", keys.get("attention.layer_norm_epsilon", 1e-5))
    fields: dict[str, Any] = {
        "vocab_size": vocab_size,
        "context_length": keys["context_length"],
        "num_layers": layers,
        "num_heads": keys["attention.head_count"],
        "num_kv_heads": keys.get("attention.head_count_kv", keys["attention.head_count"]),
        "head_dim": head_dim,
        "d_model": keys["embedding_length"],
        "d_ff": keys["feed_forward_length"],
        # A float32 in the file: 9.99999974e-06 is meant as 1e-05.
        "norm_eps": float(f"{epsilon:.6g}"),
        "rope_theta": float(keys.get("rope.freq_base", 10_000.0)),
        "rope_scaling": _read_scaling(keys),
        "tie_embeddings": "output.weight" not in names,
        "qk_norm_weight": bool(family.fields.get("qk_norm")),
        **family.fields,
    }
    if family.architecture == "llama":
        fields["bias"] = "blk.0.ffn_down.bias" in names
        fields["attention_bias"] = "all" if "blk.0.attn_output.bias" in names else "none"
    fields |= family.read(keys, fields)
    config = GPTConfig.from_dict(fields)
    for name, size in (("attention.value_length", config.head_size), ("rope.dimension_count", config.rotary_size)):
        if keys.get(name, size) != size and (name != "rope.dimension_count" or config.positions == "rope"):
            raise PretrainedError(f"{prefix}{name} is {keys[name]!r}; only {size} is supported with these heads")
    return config


def _read_scaling(keys: Mapping[str, Any]) -> RopeScaling | None:
    kind, factor = keys.get("rope.scaling.type", "none"), keys.get("rope.scaling.factor", 1.0)
    if keys.get("rope.scale_linear"):  # as old files say it
        kind, factor = "linear", keys["rope.scale_linear"]
    if kind == "none" or factor == 1.0:
        return None
    if kind == "linear":
        return RopeScaling("linear", float(factor))
    if kind == "yarn":
        given = {
            name: float(keys[f"rope.scaling.yarn_{name}"])
            for name in ("beta_fast", "beta_slow")
            if f"rope.scaling.yarn_{name}" in keys
        }
        return RopeScaling("yarn", float(factor), keys["rope.scaling.original_context_length"], **given)
    raise PretrainedError(f"rope.scaling.type is {kind!r}; supported are none, linear and yarn")


def write_sizes(family: GGUFFamily, config: GPTConfig) -> dict[str, Any]:
    """The keys that `read_sizes` reads, without the architecture's name."""
    theta, scaling = config.rope_theta, config.rope_scaling
    layer_norm = config.norm == "layernorm"
    keys: dict[str, Any] = {
        "context_length": config.context_length,
        "embedding_length": config.d_model,
        "block_count": config.num_layers,
        "feed_forward_length": config.feed_forward_width,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.kv_heads,
        f"attention.layer_norm_{'' if layer_norm else 'rms_'}epsilon": config.norm_eps,
    }
    if config.positions == "rope":
        keys |= {"attention.key_length": config.head_size, "attention.value_length": config.head_size}
        if scaling is not None and scaling.kind == "ntk":  # a larger base has the same effect
            theta *= scaling.factor ** (config.rotary_size / (config.rotary_size - 2))
        keys |= {"rope.dimension_count": config.rotary_size, "rope.freq_base": theta}
        if scaling is not None and scaling.kind in ("linear", "yarn"):
            keys |= {"rope.scaling.type": scaling.kind, "rope.scaling.factor": scaling.factor}
        if scaling is not None and scaling.kind == "yarn":
            keys["rope.scaling.original_context_length"] = scaling.original_context_length
            keys["rope.scaling.yarn_beta_fast"] = scaling.beta_fast
            keys["rope.scaling.yarn_beta_slow"] = scaling.beta_slow
    extra = {name: value for name, value in family.write(config).items() if value is not None}
    return {**keys, **extra}


def stored_tensors(family: GGUFFamily, config: GPTConfig) -> dict[str, Stored]:
    """Where each of our tensors is in the file. The order of its rows is another matter: see `rows_as_stored`."""
    tensors: dict[str, Stored] = {}

    def add(ours: str, theirs: str, biased: bool, **fused: Any) -> None:
        for kind in ("weight", "bias") if biased else ("weight",):
            tensors[f"{ours}.{kind}"] = Stored(f"{theirs}.{kind}", **fused)

    shifted = config.norm == "layernorm" and config.bias
    add("token_embedding", OUTSIDE["token_embedding"], False)
    if config.positions == "learned":
        add("position_embedding", OUTSIDE["position_embedding"], False)
    add("final_norm", OUTSIDE["final_norm"], shifted)
    if family.needs_head or not config.tie_embeddings:
        add("head", "output", False)
    norms = {
        "pre": ("attention_norm", "feed_forward_norm"),
        "output": ("attention_output_norm", "feed_forward_output_norm"),
        "both": ("attention_norm", "attention_output_norm", "feed_forward_norm", "feed_forward_output_norm"),
    }[config.norm_position]
    biased = {
        "none": (),
        "qkv": ("attention.query", "attention.key", "attention.value"),
        "all": ("attention.query", "attention.key", "attention.value", "attention.output"),
    }[config.biased_projections]
    width, kv_width = config.num_heads * config.head_size, config.kv_heads * config.head_size
    rows = {"attention.query": width, "attention.key": kv_width, "attention.value": kv_width}
    for layer in range(config.num_layers):
        ours, theirs = f"blocks.{layer}", f"blk.{layer}"
        for name in norms:
            add(f"{ours}.{name}", f"{theirs}.{NORMS[name]}", shifted)
        for name in ("attention.query_norm", "attention.key_norm") if config.qk_norm else ():
            add(f"{ours}.{name}", f"{theirs}.{NORMS[name]}", False)
        for name, stored in MATRICES.items():
            if name == "feed_forward.gate" and config.feed_forward not in GATED:
                continue
            add(f"{ours}.{name}", f"{theirs}.{stored}", name in biased or (config.bias and name.startswith("feed")))
        for stored, parts in family.fused.items():
            sizes = tuple(rows.get(name, config.feed_forward_width) for name in parts)
            for piece, name in enumerate(parts):
                add(f"{ours}.{name}", f"{theirs}.{stored}", name in biased, piece=piece, sizes=sizes)
    return tensors


def _is_turned(name: str) -> bool:
    return ".attention.query." in name or ".attention.key." in name


def as_stored(family: GGUFFamily, config: GPTConfig, name: str, tensor: Tensor) -> Tensor:
    """Our tensor as llama.cpp wants it: rows of rotated heads in neighbouring pairs, scales of norms in full."""
    if family.neighbours and _is_turned(name):
        rows = tensor.view(len(tensor), -1)  # a bias is a matrix of one column
        return _neighbouring_pairs(rows, config.head_size).view(tensor.shape)
    if config.norm == "rmsnorm_plus_one" and name.endswith("norm.weight"):
        return tensor.float() + 1
    return tensor


def from_stored(family: GGUFFamily, config: GPTConfig, name: str, tensor: Tensor) -> Tensor:
    """The reverse of `as_stored`."""
    if family.neighbours and _is_turned(name):
        pairs = tensor.view(-1, config.head_size // 2, 2, *tensor.shape[1:])  # (heads, d/2, halves, …)
        return pairs.transpose(1, 2).reshape(tensor.shape)
    if config.norm == "rmsnorm_plus_one" and name.endswith("norm.weight"):
        return tensor - 1
    return tensor


def _neighbouring_pairs(weight: Tensor, head_size: int) -> Tensor:
    """Move the rows of each head from pairs (i, i + d/2) to pairs (2i, 2i + 1)."""
    heads = weight.view(-1, 2, head_size // 2, weight.shape[-1])  # (heads, halves, d/2, in)
    return heads.transpose(1, 2).reshape(weight.shape)


def rope_frequencies(config: GPTConfig) -> Tensor | None:
    """What `ROPE_FREQUENCIES` holds: by how much llama3's scaling slows each pair; None for other scalings."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "llama3":
        return None
    plain, _ = rotary_speeds(config.rotary_size, config.rope_theta)
    slowed, _ = rotary_speeds(config.rotary_size, config.rope_theta, scaling)
    return plain / slowed


def scaling_of_frequencies(config: GPTConfig, slowed_by: Tensor) -> RopeScaling:
    """The scaling whose `rope_frequencies` are these, with the constants that Meta published.

    Raises:
        PretrainedError: there is none.
    """
    factor = float(slowed_by.max())
    if factor >= 1 and slowed_by.shape == (config.rotary_size // 2,):
        scaling = RopeScaling("llama3", float(f"{factor:.6g}"), 8192, low_freq_factor=1.0, high_freq_factor=4.0)
        plain, _ = rotary_speeds(config.rotary_size, config.rope_theta)
        speeds, _ = rotary_speeds(config.rotary_size, config.rope_theta, scaling)
        if torch.allclose(plain / speeds, slowed_by, rtol=1e-4):
            return scaling
    raise PretrainedError(f"{ROPE_FREQUENCIES} is not the scaling of Llama 3.1, and no other can be read")
