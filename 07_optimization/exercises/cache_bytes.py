"""Exercise 7.2: What a token costs in the cache."""

from __future__ import annotations

import torch

from transformer.config import GPTConfig


def bytes_per_token(config: GPTConfig, dtype: torch.dtype) -> int:
    """How many bytes the keys and values of one token take in all layers together.

    Each layer stores a key and a value of head_size numbers for each key-value head. In int8 each of these vectors also
    has a float32 scale.

    Args:
        config: `num_layers`, `kv_heads`, `head_size`.
        dtype: the type of the numbers; `dtype.itemsize` is the number of bytes of one.

    >>> bytes_per_token(GPTConfig(vocab_size=10, num_layers=32, num_heads=32, num_kv_heads=8, d_model=4096), torch.bfloat16)
    131072
    """
    raise NotImplementedError("Exercise 7.2: keys and values, heads and layers")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """Small; bfloat16; grouped heads; int8; float8; heads of another size."""
    small = GPTConfig(vocab_size=10, num_layers=2, num_heads=4, d_model=32)
    grouped = GPTConfig(vocab_size=10, num_layers=3, num_heads=8, num_kv_heads=2, d_model=64)
    yield Case("num_layers 2, kv_heads 4, head_size 8, float32", [small, torch.float32])
    yield Case("num_layers 2, kv_heads 4, head_size 8, bfloat16", [small, torch.bfloat16])
    yield Case("num_layers 3, num_heads 8, kv_heads 2, head_size 8, bfloat16", [grouped, torch.bfloat16])
    yield Case("num_layers 3, num_heads 8, kv_heads 2, head_size 8, int8 with its scales", [grouped, torch.int8])
    yield Case("the same in float8, which has no scales", [grouped, torch.float8_e4m3fn])
    wide = GPTConfig(vocab_size=10, num_layers=1, num_heads=4, num_kv_heads=1, head_dim=16, d_model=32)
    yield Case("num_heads 4, kv_heads 1, head_size 16, d_model 32, float32", [wide, torch.float32])


def _keys_alone(config: GPTConfig, dtype: torch.dtype) -> int:
    return config.num_layers * config.kv_heads * config.head_size * dtype.itemsize


def _query_heads(config: GPTConfig, dtype: torch.dtype) -> int:
    return 2 * config.num_layers * config.num_heads * (config.head_size * dtype.itemsize + 4 * (dtype == torch.int8))


def _no_scales(config: GPTConfig, dtype: torch.dtype) -> int:
    return 2 * config.num_layers * config.kv_heads * config.head_size * dtype.itemsize


def _one_scale(config: GPTConfig, dtype: torch.dtype) -> int:
    return _no_scales(config, dtype) + 4 * (dtype == torch.int8)


def _every_byte_scaled(config: GPTConfig, dtype: torch.dtype) -> int:
    return 2 * config.num_layers * config.kv_heads * (config.head_size * dtype.itemsize + 4 * (dtype.itemsize == 1))


def _divided_width(config: GPTConfig, dtype: torch.dtype) -> int:
    vector = config.d_model // config.num_heads * dtype.itemsize + 4 * (dtype == torch.int8)
    return 2 * config.num_layers * config.kv_heads * vector


def _always_float32(config: GPTConfig, dtype: torch.dtype) -> int:
    return 2 * config.num_layers * config.kv_heads * config.head_size * 4


EXERCISE = Exercise(
    stub=bytes_per_token,
    reference="optimization.kv_cache:bytes_per_token",
    cases=cases,
    hints=(
        "The answer is a product: the number of vectors times the bytes of one vector.",
        "2 · num_layers · kv_heads vectors. One takes head_size · itemsize bytes, and 4 more in int8.",
        "vector = config.head_size * dtype.itemsize + (4 if dtype == torch.int8 else 0); 2 * num_layers * kv_heads * vector.",
    ),
    mistakes=(
        Mistake(_keys_alone, "keys *and* values are stored"),
        Mistake(_always_float32, "the number of bytes depends on the type: dtype.itemsize"),
        Mistake(_query_heads, "only key-value heads are stored, and grouped attention has fewer of them"),
        Mistake(_one_scale, "each vector (a key or a value, of each head and layer) has a scale of its own"),
        Mistake(_no_scales, "in int8 each vector has a scale of 4 bytes"),
        Mistake(
            _every_byte_scaled, "only int8 has scales: float8 takes one byte as well, and has an exponent of its own"
        ),
        Mistake(_divided_width, "a head need not have d_model / num_heads numbers: config.head_size says how many"),
    ),
)
