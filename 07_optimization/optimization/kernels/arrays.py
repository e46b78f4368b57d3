"""What a step reads and writes, as tuples of arrays: Numba compiles one version for each combination of types."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Numbers = NDArray[Any]


class Matrix(NamedTuple):
    """The matrices of all layers that have one shape, (in, out): each output has its own column.

    Args:
        weight: (layers, in, out) float32, int8, or bfloat16 in the bits of uint16. With 4 bits (layers, in / 2, out)
            uint8: the lower half of a byte is an even row, the upper half the row after it.
        scale: (layers, 1, out) float32 for int8. With 4 bits (layers, groups, out) bfloat16 in the bits of uint16.
            Otherwise it is not read.
        zero: with 4 bits, as `scale`. Otherwise it is not read.
        bias: (layers, out) float32.
    """

    weight: Numbers
    scale: Numbers
    zero: Numbers
    bias: Floats


class TokenTable(NamedTuple):
    """Where a token's vector comes from.

    In an untied table, the numbers of a token are neighbours. In one that is also the head, each is in another row of it.

    Args:
        table: the memory of the token embedding, in one piece.
        scale: (vocab,) float32, which a token's numbers are multiplied with.
        id_stride: how far the vectors of two neighbouring tokens are apart.
        width_stride: how far two numbers of a vector are apart.
        positions: (context, d_model) float32, added to the vector; no rows if nothing is added.
    """

    table: Numbers
    scale: Floats
    id_stride: int
    width_stride: int
    positions: Floats


class Model(NamedTuple):
    """The arrays of a model. Norms are (layers, 2, size), a scale and a shift; no layers if there is no norm.

    Args:
        embedding: of the tokens.
        rotary: (tables, 2, context, rotary size) float32, cosines and signed sines; see `RotaryEmbedding`.
        rotary_table: (layers,) which of them a layer uses; -1 for none.
        window: (layers,) how many positions a token sees.
        qkv: queries, keys and values beside each other.
        output: of attention.
        up: the first matrix of the feed-forward; with a gate, gate and up beside each other.
        down: its last matrix.
        head: one "layer".
        attention_norm, feed_forward_norm: of what a part of a block reads.
        attention_output_norm, feed_forward_output_norm: of what a part gives, before it is added.
        attention_sum_norm, feed_forward_sum_norm: of the residual stream after that.
        query_norm, key_norm: of a head, or of all heads together.
        final_norm: one "layer" or none.
    """

    embedding: TokenTable
    rotary: Floats
    rotary_table: Numbers
    window: Numbers
    qkv: Matrix
    output: Matrix
    up: Matrix
    down: Matrix
    head: Matrix
    attention_norm: Floats
    attention_output_norm: Floats
    attention_sum_norm: Floats
    feed_forward_norm: Floats
    feed_forward_output_norm: Floats
    feed_forward_sum_norm: Floats
    query_norm: Floats
    key_norm: Floats
    final_norm: Floats


class Shape(NamedTuple):
    """The numbers and choices of a model; the names are those of `GPTConfig`, where it has them."""

    num_layers: int
    heads: int
    kv_heads: int
    head_size: int
    feed_forward_width: int
    feed_forward: int
    centered_norms: bool
    norm_eps: float
    parallel_residual: bool
    norm_across_heads: bool
    sinks: int
    attention_scale: float
    attention_softcap: float
    embedding_scale: float


class Cache(NamedTuple):
    """The key-value cache.

    Args:
        memory: (layers, 2, slots, kv_heads, head_dim) float32, int8, or bfloat16 in the bits of uint16.
        scales: (layers, 2, slots, kv_heads, 1) float32 for int8; otherwise any array with another number of axes.
        block_size: slots in a block.
    """

    memory: Numbers
    scales: Floats
    block_size: int


class Rows(NamedTuple):
    """The tokens of a step.

    Args:
        ids: (rows,) int64.
        positions: (rows,) int64.
        blocks: (rows, blocks) int64, each token's block table; what lies after its end, or was given back, is not read.
        logits: (rows, vocab) float32, the result.
    """

    ids: Numbers
    positions: Numbers
    blocks: Numbers
    logits: Floats


class Scratch(NamedTuple):
    """Memory for what a step computes on the way, float32.

    Args:
        x: (rows, d_model) the residual stream.
        read: (rows, d_model) what the next matrix reads.
        qkv: (rows, queries + keys + values).
        heads: (rows, heads · head_dim) the output of attention.
        part: (rows, d_model) the output of a part of a block.
        hidden: (rows, outputs of `up`).
        scores: (threads, heads / kv_heads, context).
    """

    x: Floats
    read: Floats
    qkv: Floats
    heads: Floats
    part: Floats
    hidden: Floats
    scores: Floats
