"""Exercise 3.6: Count the parameters of a model before it is built."""

from __future__ import annotations

from transformer.config import GPTConfig
from transformer.model_summary import ParameterCount


def count_parameters(config: GPTConfig) -> ParameterCount:
    """Count the parameters of a configuration, part by part.

    - Embeddings: vocab_size vectors of d_model; `positions == "learned"` has one more for each of context_length positions.
    - Attention, in each of num_layers blocks: queries and output are matrices of d_model by num_heads · head_size, keys
      and values of d_model by kv_heads · head_size. (`config.head_size` and `config.kv_heads` are computed for you.)
    - Feed-forward, in each block: d_model by feed_forward_width and back; `feed_forward == "swiglu"` has a third matrix,
      the gate. (`config.feed_forward_width` is computed for you too.)
    - Norms: two in each block, and one at the end if `norm_position == "pre"`. A norm has d_model weights. A layer norm
      (`norm == "layernorm"`) also has d_model biases, if `config.bias`. If `qk_norm_weight`, each block has two more
      norms, for queries and keys, with head_size weights and no bias.
    - Head: vocab_size by d_model; none if `tie_embeddings`.

    If `config.bias`, every matrix of attention and feed-forward has a bias with as many numbers as the matrix has outputs.

    Args:
        config: with `vocab_size` set.

    Returns:
        ParameterCount(embeddings, attention, feed_forward, norms, head).
    """
    raise NotImplementedError("Exercise 3.6: count, part by part")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from learn.exercise import Case, Exercise, Mistake
from transformer.model_summary import count_parameters as _reference
from transformer.presets import preset


def cases() -> Iterator[Case]:
    """Small models that differ in one part; GPT-2."""
    plain = GPTConfig(vocab_size=100, context_length=16, num_layers=2, num_heads=4, d_model=32)
    for what, changes in (
        ("RMSNorm, SwiGLU, rotary, no biases, tied", {}),
        ("grouped heads: 2 key-value heads for 4", {"num_kv_heads": 2}),
        ("a head of its own, not tied", {"tie_embeddings": False}),
        ("GELU instead of SwiGLU", {"feed_forward": "gelu"}),
        ("learned positions", {"positions": "learned"}),
        ("heads of 16, which is not d_model / num_heads", {"head_dim": 16}),
        ("biases and layer norm", {"bias": True, "norm": "layernorm", "feed_forward": "gelu"}),
        ("biases with SwiGLU and grouped heads", {"bias": True, "num_kv_heads": 2}),
        ("post-norm: no norm at the end", {"norm_position": "post"}),
        ("learned norms of queries and keys", {"qk_norm": True, "qk_norm_weight": True}),
        ("layer norm without biases", {"norm": "layernorm"}),
        ("biases, and a head of its own, which has none", {"bias": True, "tie_embeddings": False}),
        ("biases with heads of 16", {"bias": True, "head_dim": 16}),
    ):
        yield Case(what, [dataclasses.replace(plain, **changes)])
    everything: dict[str, Any] = {
        "bias": True, "norm": "layernorm", "positions": "learned", "norm_position": "post", "tie_embeddings": False,
        "qk_norm": True, "qk_norm_weight": True, "num_kv_heads": 1, "head_dim": 12, "d_ff": 50,
    }  # fmt: skip
    yield Case("everything at once", [dataclasses.replace(plain, **everything)])
    yield Case("three layers, GELU, a width of 50 inside", [
        dataclasses.replace(plain, num_layers=3, feed_forward="gelu", d_ff=50, bias=True),
    ])  # fmt: skip
    yield Case("GPT-2 with 124 million", [preset("gpt2_124m")])


def _mistaken(**forgotten: Any) -> Callable[..., Any]:
    """The count of a configuration in which one setting was ignored."""

    def count_parameters(config: GPTConfig) -> ParameterCount:
        return _reference(dataclasses.replace(config, **forgotten))

    return count_parameters


def _one_layer(config: GPTConfig) -> ParameterCount:
    return _reference(dataclasses.replace(config, num_layers=1))


def _changed(part: str, by: Callable[[GPTConfig], int]) -> Callable[..., Any]:
    """The right count, with something added to one part."""

    def count_parameters(config: GPTConfig) -> ParameterCount:
        right = _reference(config)
        return dataclasses.replace(right, **{part: getattr(right, part) + by(config)})

    return count_parameters


def _one_layer_of_matrices(config: GPTConfig) -> ParameterCount:
    return dataclasses.replace(_one_layer(config), norms=_reference(config).norms)


def _one_layer_of_norms(config: GPTConfig) -> ParameterCount:
    return dataclasses.replace(_reference(config), norms=_one_layer(config).norms)


def _bias_of_head(config: GPTConfig) -> int:
    return (config.vocab_size or 0) if config.bias and not config.tie_embeddings else 0


def _wide_output_bias(config: GPTConfig) -> int:
    return config.bias * config.num_layers * (config.num_heads * config.head_size - config.d_model)


def _bias_of_norms(config: GPTConfig) -> int:
    norms = 2 * config.num_layers + (config.norm_position == "pre")
    return norms * config.d_model if config.norm == "layernorm" and not config.bias else 0


EXERCISE = Exercise(
    stub=count_parameters,
    reference="transformer.model_summary:count_parameters",
    cases=cases,
    hints=(
        "Count the parts one by one, and begin without biases. The questions change one setting at a time.",
        "bias = int(config.bias) gives a factor of 0 or 1. The biases of attention are bias * (width + 2 * kv_width + d_model) "
        "in each block, with width = num_heads * head_size.",
        "attention = layers * (2 * d * width + 2 * d * kv_width + bias * (width + 2 * kv_width + d)); feed_forward = layers "
        "* ((ways_up + 1) * d * inner + bias * (ways_up * inner + d)) with ways_up 2 for swiglu, otherwise 1.",
    ),
    mistakes=(
        Mistake(_one_layer, "attention, feed-forward and norms are in each of num_layers blocks"),
        Mistake(_one_layer_of_matrices, "attention and feed-forward are in each of num_layers blocks"),
        Mistake(_one_layer_of_norms, "the two norms, too, are in each of num_layers blocks"),
        Mistake(
            _mistaken(num_kv_heads=None),
            "keys and values are kv_heads · head_size wide, which may be less than the width of the queries",
        ),
        Mistake(_mistaken(tie_embeddings=True), "a head that is not tied has vocab_size · d_model parameters"),
        Mistake(_mistaken(feed_forward="swiglu", d_ff=None), "only SwiGLU has a third matrix"),
        Mistake(_mistaken(positions="rope"), "learned positions are parameters, context_length · d_model"),
        Mistake(
            _mistaken(head_dim=None), "the projections are num_heads · head_size wide, which may differ from d_model"
        ),
        Mistake(_mistaken(bias=False), "the biases are missing"),
        Mistake(_mistaken(norm_position="pre"), "post-norm models have no norm at the end"),
        Mistake(_mistaken(qk_norm_weight=False), "the learned norms of queries and keys are missing"),
        Mistake(_changed("norms", _bias_of_norms), "without `config.bias` a layer norm has no biases either"),
        Mistake(
            _changed("head", _bias_of_head), "the head has no bias: only matrices of attention and feed-forward do"
        ),
        Mistake(
            _changed("attention", _wide_output_bias),
            "a bias has as many numbers as its matrix has outputs: the bias of attention's output has d_model",
        ),
    ),
)
