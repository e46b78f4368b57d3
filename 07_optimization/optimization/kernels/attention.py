"""Attention of one new token over the paged cache: keys and values are read where they are, block by block."""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numba.extending import overload

from optimization.kernels.numbers import exponential, fma, kernel, kernel_in_any_order, to_bfloat16, to_float
from optimization.kernels.parts import sum_of


@kernel_in_any_order
def dot(query, key):
    """The sum of the products; both have the size of a head, so the order is the same for all."""
    total = np.float32(0)
    for i in range(query.size):
        total += query[i] * to_float(key[i])
    return total


@kernel
def add_weighted(output, weight, value):
    """output += weight · value."""
    for i in range(output.size):
        output[i] = fma(weight, to_float(value[i]), output[i])


@kernel
def attend(queries, cache, layer, kv_head, blocks, position, window, shape, outputs, scores):
    """The queries of one token that share a key-value head, over the tokens that the token sees.

    The softmax takes two passes over the scores, which fit into a cache: the largest, then the exponentials. Tokens are
    always taken in the order of their positions.

    Args:
        queries: (group · head_dim,) float32.
        cache: a `Cache`.
        layer: index of the layer.
        kv_head: index of the key-value head.
        blocks: (blocks,) the token's block table.
        position: of the token; its own key and value are stored already.
        window: how many positions it sees, including its own.
        shape: a `Shape`.
        outputs: (group · head_dim,) float32.
        scores: (group, at least the visible tokens) float32, scratch.
    """
    group, size, block_size, memory = scores.shape[0], shape.head_size, cache.block_size, cache.memory
    low = max(0, position + 1 - window)
    sunk = min(shape.sinks, low)  # the token sees those before `sunk`, and those from `low` on
    count = sunk + position + 1 - low
    for index in range(count):
        token = index if index < sunk else index - sunk + low
        slot = blocks[token // block_size] * block_size + token % block_size
        key = memory[layer, 0, slot, kv_head]
        factor = cache_scale(cache.scales, layer, 0, slot, kv_head)
        for g in range(group):
            scores[g, index] = dot(queries[g * size : (g + 1) * size], key) * factor
    for g in range(group):
        softmax(scores[g, :count], shape.attention_scale, shape.attention_softcap)
    for i in range(outputs.size):
        outputs[i] = 0
    for index in range(count):
        token = index if index < sunk else index - sunk + low
        slot = blocks[token // block_size] * block_size + token % block_size
        value = memory[layer, 1, slot, kv_head]
        factor = cache_scale(cache.scales, layer, 1, slot, kv_head)
        for g in range(group):
            add_weighted(outputs[g * size : (g + 1) * size], scores[g, index] * factor, value)


@kernel
def softmax(scores, scale, softcap):
    """Turn scores into weights, in place."""
    largest = np.float32(-np.inf)
    for i in range(scores.size):
        score = scores[i] * np.float32(scale)
        if softcap > 0:
            score = np.float32(softcap) * np.float32(math.tanh(score / np.float32(softcap)))
        scores[i] = score
        largest = max(largest, score)
    for i in range(scores.size):
        scores[i] = exponential(scores[i] - largest)
    factor = np.float32(1) / sum_of(scores)
    for i in range(scores.size):
        scores[i] *= factor


def cache_scale(scales, layer, which, slot, kv_head):
    """What a stored vector is multiplied with: its scale if it has 8 bits, otherwise 1."""
    raise NotImplementedError("Numba calls the version for the types; see `overload` below")


@overload(cache_scale)
def _cache_scale(scales, layer, which, slot, kv_head):
    if scales.ndim == 5:
        return lambda scales, layer, which, slot, kv_head: scales[layer, which, slot, kv_head, 0]
    return lambda scales, layer, which, slot, kv_head: np.float32(1)


def store(memory, scales, layer, which, slot, kv_head, vector):
    """Keep the key (0) or value (1) of one token and head in the type of the cache."""
    raise NotImplementedError("Numba calls the version for the types; see `overload` below")


@overload(store)
def _store(memory, scales, layer, which, slot, kv_head, vector):
    if memory.dtype == types.int8:

        def eight_bits(memory, scales, layer, which, slot, kv_head, vector):
            largest = np.float32(0)
            for i in range(vector.size):
                largest = max(largest, abs(vector[i]))
            scale = max(largest / np.float32(127), np.float32(1e-12))
            scales[layer, which, slot, kv_head, 0] = scale
            for i in range(vector.size):
                memory[layer, which, slot, kv_head, i] = np.int8(np.rint(vector[i] / scale))

        return eight_bits
    if memory.dtype == types.uint16:

        def sixteen_bits(memory, scales, layer, which, slot, kv_head, vector):
            for i in range(vector.size):
                memory[layer, which, slot, kv_head, i] = to_bfloat16(vector[i])

        return sixteen_bits

    def floats(memory, scales, layer, which, slot, kv_head, vector):
        for i in range(vector.size):
            memory[layer, which, slot, kv_head, i] = vector[i]

    return floats
