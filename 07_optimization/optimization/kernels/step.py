"""One step of decoding, from token ids to logits, in one compiled function.

PyTorch would be called 20 times a layer. Each call costs some microseconds before anything is computed, and reads and
writes memory again. For a model of 10 million weights, this takes longer than the arithmetic. Here Python is left once a
step, and every thread runs `decode` from beginning to end. It reads like the model's `forward`: each line is a phase that
all threads share (see `threads`), for rows, for heads, or for the columns of a matrix.
"""

from __future__ import annotations

import numpy as np

from optimization.kernels.attention import attend, store
from optimization.kernels.lanes import LANES
from optimization.kernels.numbers import kernel, to_float
from optimization.kernels.parts import GEGLU, SWIGLU, activate, normalise, rotate
from optimization.kernels.products import multiply
from optimization.kernels.threads import claim, enter, finish_piece, leave, wait_for_all

PHASES_OF_A_LAYER = 8


def num_phases(num_layers: int) -> int:
    """The phases of a step: the embedding, those of the layers, the head."""
    return num_layers * PHASES_OF_A_LAYER + 2


@kernel
def decode(counters, number, thread, shape, model, cache, rows, scratch):
    """Compute the logits of some tokens, and store their keys and values.

    Args:
        counters, number: see `threads.Crew.run`.
        thread: the number of this thread.
        shape: a `Shape`.
        model: a `Model`.
        cache: a `Cache`.
        rows: a `Rows`.
        scratch: a `Scratch`.
    """
    if not enter(counters, number):
        return
    count = rows.ids.size
    x, read, part, qkv = scratch.x[:count], scratch.read[:count], scratch.part[:count], scratch.qkv[:count]
    heads, hidden, scores = scratch.heads[:count], scratch.hidden[:count], scratch.scores[thread]
    threads, width, d_model = scratch.scores.shape[0], shape.feed_forward_width, x.shape[1]
    # In variables, because Numba compiles another version of a function for a number in the code.
    zero, no = np.int64(0), np.bool_(False)
    embed(counters, zero, shape, model.embedding, model.attention_norm, rows.ids, rows.positions, x, read)
    for layer in range(shape.num_layers):
        phase = 1 + PHASES_OF_A_LAYER * layer
        project(counters, phase, threads, read, d_model, model.qkv, layer, qkv)
        query_norm, key_norm, rotary, table = model.query_norm, model.key_norm, model.rotary, model.rotary_table[layer]
        prepare(counters, phase + 1, shape, query_norm, key_norm, rotary, table, layer, cache, rows, qkv)
        look_back(counters, phase + 2, shape, model.window[layer], layer, cache, rows, qkv, heads, scores)
        project(counters, phase + 3, threads, heads, heads.shape[1], model.output, layer, part)
        before, after, parallel = model.attention_output_norm, model.attention_sum_norm, shape.parallel_residual
        add(counters, phase + 4, shape, before, after, layer, model.feed_forward_norm, layer, parallel, part, x, read)
        expand(counters, phase + 5, threads, shape, read, model.up, layer, hidden)
        project(counters, phase + 6, threads, hidden, width, model.down, layer, part)
        if layer + 1 < shape.num_layers:
            following, index = model.attention_norm, layer + 1
        else:
            following, index = model.final_norm, zero
        before, after = model.feed_forward_output_norm, model.feed_forward_sum_norm
        add(counters, phase + 7, shape, before, after, layer, following, index, no, part, x, read)
    phase = 1 + PHASES_OF_A_LAYER * shape.num_layers
    project(counters, phase, threads, read, d_model, model.head, zero, rows.logits)
    leave(counters)


@kernel
def embed(counters, phase, shape, embedding, norms, ids, positions, x, read):
    """x = the vector of each token; read = its first norm."""
    row = claim(counters, phase, ids.size)
    while row < ids.size:
        token, position = ids[row], positions[row]
        scale = embedding.scale[token] * np.float32(shape.embedding_scale)
        start = token * embedding.id_stride
        for j in range(x.shape[1]):
            x[row, j] = to_float(embedding.table[start + j * embedding.width_stride]) * scale
        if embedding.positions.shape[0]:
            for j in range(x.shape[1]):
                x[row, j] += embedding.positions[position, j]
        apply_norm(norms, np.int64(0), shape.centered_norms, shape.norm_eps, x[row], read[row])
        finish_piece(counters, phase)
        row = claim(counters, phase, ids.size)
    wait_for_all(counters, phase, ids.size)


@kernel
def apply_norm(norms, layer, centered, eps, x, y):
    """y = norm(x), or x itself if the model has no norm there."""
    if norms.shape[0]:
        normalise(x, centered, eps, norms[layer, 0], norms[layer, 1], y)
    else:
        for j in range(x.size):
            y[j] = x[j]


@kernel
def project(counters, phase, threads, x, inputs, matrix, layer, y):
    """y = x · W + b, where x are the first numbers of each row."""
    outputs = matrix.bias.shape[1]
    width = columns_of_a_piece(outputs, threads)
    pieces = -(-outputs // width)
    piece = claim(counters, phase, pieces)
    while piece < pieces:
        start = piece * width
        multiply(x, inputs, matrix, layer, start, min(start + width, outputs), y)
        finish_piece(counters, phase)
        piece = claim(counters, phase, pieces)
    wait_for_all(counters, phase, pieces)


@kernel
def columns_of_a_piece(columns, threads):
    """Long stretches are read faster, but a thread that is late should leave something to the others."""
    width = min(max(columns // (2 * threads), 1024), 4096)
    width = min(width, max(-(-columns // threads), 64))
    return -(-width // LANES) * LANES


@kernel
def expand(counters, phase, threads, shape, x, matrix, layer, y):
    """The first matrix of the feed-forward and its activation: the result is in the first columns of y."""
    columns = shape.feed_forward_width
    gated = shape.feed_forward == SWIGLU or shape.feed_forward == GEGLU
    width = columns_of_a_piece(columns, threads)
    pieces = -(-columns // width)
    piece = claim(counters, phase, pieces)
    while piece < pieces:
        start = piece * width
        stop = min(start + width, columns)
        second = columns if gated else 0
        for offset in range(0, second + 1, columns):  # with a gate, the same columns of both halves
            multiply(x, x.shape[1], matrix, layer, offset + start, offset + stop, y)
        for row in range(x.shape[0]):
            activate(shape.feed_forward, y[row, start:stop], y[row, second + start : second + stop])
        finish_piece(counters, phase)
        piece = claim(counters, phase, pieces)
    wait_for_all(counters, phase, pieces)


@kernel
def prepare(counters, phase, shape, query_norm, key_norm, rotary, table, layer, cache, rows, qkv):
    """Normalise and turn queries and keys, and store keys and values."""
    size, heads, block_size, count = shape.head_size, shape.heads + shape.kv_heads, cache.block_size, qkv.shape[0]
    keys, values = shape.heads * size, heads * size  # where they begin
    row = claim(counters, phase, count)
    while row < count:
        vectors, position, centered = qkv[row], rows.positions[row], np.bool_(False)
        if query_norm.shape[0]:
            step = keys if shape.norm_across_heads else size
            for start in range(0, keys, step):
                vector = vectors[start : start + step]
                apply_norm(query_norm, layer, centered, shape.norm_eps, vector, vector)
            step = values - keys if shape.norm_across_heads else size
            for start in range(keys, values, step):
                vector = vectors[start : start + step]
                apply_norm(key_norm, layer, centered, shape.norm_eps, vector, vector)
        if table >= 0:
            for head in range(heads):
                rotate(vectors[head * size : (head + 1) * size], rotary[table, 0, position], rotary[table, 1, position])
        slot = rows.blocks[row, position // block_size] * block_size + position % block_size
        for head in range(shape.kv_heads):
            start = head * size
            store(cache.memory, cache.scales, layer, 0, slot, head, vectors[keys + start : keys + start + size])
            store(cache.memory, cache.scales, layer, 1, slot, head, vectors[values + start : values + start + size])
        finish_piece(counters, phase)
        row = claim(counters, phase, count)
    wait_for_all(counters, phase, count)


@kernel
def look_back(counters, phase, shape, window, layer, cache, rows, qkv, heads, scores):
    """Attention, one token and key-value head at a time."""
    width = (shape.heads // shape.kv_heads) * shape.head_size
    pieces = qkv.shape[0] * shape.kv_heads
    piece = claim(counters, phase, pieces)
    while piece < pieces:
        row, kv_head = piece // shape.kv_heads, piece % shape.kv_heads
        start, stop = kv_head * width, (kv_head + 1) * width
        queries, outputs, position = qkv[row, start:stop], heads[row, start:stop], rows.positions[row]
        attend(queries, cache, layer, kv_head, rows.blocks[row], position, window, shape, outputs, scores)
        finish_piece(counters, phase)
        piece = claim(counters, phase, pieces)
    wait_for_all(counters, phase, pieces)


@kernel
def add(counters, phase, shape, output_norm, sum_norm, layer, next_norm, next_layer, read_first, part, x, read):
    """x = norm(x + norm(part)), each where the model has one; read = what is read next, before the sum or after it."""
    centered, eps = shape.centered_norms, shape.norm_eps
    row = claim(counters, phase, x.shape[0])
    while row < x.shape[0]:
        apply_norm(output_norm, layer, centered, eps, part[row], part[row])
        if read_first:
            apply_norm(next_norm, next_layer, centered, eps, x[row], read[row])
        for j in range(x.shape[1]):
            x[row, j] += part[row, j]
        apply_norm(sum_norm, layer, centered, eps, x[row], x[row])
        if not read_first:
            apply_norm(next_norm, next_layer, centered, eps, x[row], read[row])
        finish_piece(counters, phase)
        row = claim(counters, phase, x.shape[0])
    wait_for_all(counters, phase, x.shape[0])
