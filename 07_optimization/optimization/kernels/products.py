"""A matrix times a few rows, with each weight read from memory once.

For x (rows, in) and W (in, out), the usual way to compute x W takes one output after the other and adds up its products:
a vector unit then has eight or sixteen partial sums, and the order in which they are added depends on the code. Here the
loop over the inputs is outside: y += x[k] · W[k], a whole row of W at a time. Each output is then one chain of
additions in the order of k, however many lanes, rows, columns or threads there are. So a row's numbers are the same
whatever is computed beside it, and W is read in the order in which it is stored.

A y that is read and written for each k would cost as much as W. So eight rows of W are added at a time.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from groundwork.compiled import compiled
from optimization.kernels.numbers import fma, to_float

TILE = 512  # columns of eight rows of W, which stay in the fastest cache while all rows of x use them
WIDTH = 16  # columns are divided among threads in multiples of this


@compiled
def multiply(x, inputs, matrix, layer, start, stop, y, tile):
    """y[:, start:stop] = x[:, :inputs] · W[:, start:stop] + bias.

    Args:
        x: (rows, at least inputs) float32.
        inputs: the rows of W.
        matrix: a `Matrix`.
        layer: which one of its matrices.
        start: first column.
        stop: the column after the last one.
        y: (rows, at least stop) float32.
        tile: (8, TILE) float32, scratch.
    """
    weight, scale, zero, rows = matrix.weight[layer], matrix.scale[layer], matrix.zero[layer], x.shape[0]
    for row in range(rows):
        for j in range(start, stop):
            y[row, j] = 0
    if rows == 1:
        add_products(y[0, start:stop], x[0, :inputs], weight, scale, zero, start)
    else:
        for first in range(start, stop, TILE):
            last = min(first + TILE, stop)
            width = last - first
            for k in range(0, inputs, 8):
                count = fill(tile, weight, scale, zero, k, first, width)
                for row in range(rows):
                    if count == 8:
                        t0, t1, t2, t3 = tile[0], tile[1], tile[2], tile[3]
                        t4, t5, t6, t7 = tile[4], tile[5], tile[6], tile[7]
                        add_eight(y[row, first:last], x[row], k, t0, t1, t2, t3, t4, t5, t6, t7)
                    else:
                        for i in range(count):
                            add_one(y[row, first:last], x[row, k + i], tile[i])
    bias = matrix.bias[layer]
    for row in range(rows):
        finish(y[row, start:stop], weight, scale, bias, start)


@compiled
def add_eight(y, x, k, w0, w1, w2, w3, w4, w5, w6, w7):
    """y += x[k] · w0 + … + x[k + 7] · w7, one after the other."""
    x0, x1, x2, x3, x4, x5, x6, x7 = x[k], x[k + 1], x[k + 2], x[k + 3], x[k + 4], x[k + 5], x[k + 6], x[k + 7]
    for j in range(y.size):
        t = fma(x0, to_float(w0[j]), y[j])
        t = fma(x1, to_float(w1[j]), t)
        t = fma(x2, to_float(w2[j]), t)
        t = fma(x3, to_float(w3[j]), t)
        t = fma(x4, to_float(w4[j]), t)
        t = fma(x5, to_float(w5[j]), t)
        t = fma(x6, to_float(w6[j]), t)
        y[j] = fma(x7, to_float(w7[j]), t)


@compiled
def add_one(y, x, w):
    """y += x · w."""
    for j in range(y.size):
        y[j] = fma(x, to_float(w[j]), y[j])


@compiled
def add_four_bits(y, x, k, w0, w1, w2, w3, scale, zero):
    """`add_eight` for weights of 4 bits: w0 holds the rows k (lower half of a byte) and k + 1, and so on."""
    x0, x1, x2, x3, x4, x5, x6, x7 = x[k], x[k + 1], x[k + 2], x[k + 3], x[k + 4], x[k + 5], x[k + 6], x[k + 7]
    for j in range(y.size):
        s = to_float(scale[j])
        z = fma(np.float32(-8), s, to_float(zero[j]))
        t = fma(x0, fma(low(w0[j]), s, z), y[j])
        t = fma(x1, fma(high(w0[j]), s, z), t)
        t = fma(x2, fma(low(w1[j]), s, z), t)
        t = fma(x3, fma(high(w1[j]), s, z), t)
        t = fma(x4, fma(low(w2[j]), s, z), t)
        t = fma(x5, fma(high(w2[j]), s, z), t)
        t = fma(x6, fma(low(w3[j]), s, z), t)
        y[j] = fma(x7, fma(high(w3[j]), s, z), t)


@compiled
def low(byte):
    """The lower four bits as float32."""
    return np.float32(np.int32(byte) & np.int32(15))


@compiled
def high(byte):
    """The upper four bits as float32."""
    return np.float32(np.int32(byte) >> np.int32(4))


def add_products(y, x, weight, scale, zero, start):
    """y += x · W[:, start : start + len(y)], straight from the memory of W."""
    raise NotImplementedError


@overload(add_products)
def _add_products(y, x, weight, scale, zero, start):
    if weight.dtype == types.uint8:

        def four_bits(y, x, weight, scale, zero, start):
            stop, group = start + y.size, x.size // scale.shape[0]
            for k in range(0, x.size, 8):
                byte, at = k // 2, k // group
                w0, w1 = weight[byte, start:stop], weight[byte + 1, start:stop]
                w2, w3 = weight[byte + 2, start:stop], weight[byte + 3, start:stop]
                add_four_bits(y, x, k, w0, w1, w2, w3, scale[at, start:stop], zero[at, start:stop])

        return four_bits

    def numbers(y, x, weight, scale, zero, start):
        stop, whole = start + y.size, x.size - x.size % 8
        for k in range(0, whole, 8):
            w0, w1, w2 = weight[k, start:stop], weight[k + 1, start:stop], weight[k + 2, start:stop]
            w3, w4, w5 = weight[k + 3, start:stop], weight[k + 4, start:stop], weight[k + 5, start:stop]
            add_eight(y, x, k, w0, w1, w2, w3, w4, w5, weight[k + 6, start:stop], weight[k + 7, start:stop])
        for k in range(whole, x.size):
            add_one(y, x[k], weight[k, start:stop])

    return numbers


def fill(tile, weight, scale, zero, k, start, width):
    """Copy the rows from k on of W[:, start : start + width] into the tile as float32. Returns their number, 1 to 8."""
    raise NotImplementedError


@overload(fill)
def _fill(tile, weight, scale, zero, k, start, width):
    if weight.dtype == types.uint8:

        def four_bits(tile, weight, scale, zero, k, start, width):
            stop, group = start + width, 2 * weight.shape[0] // scale.shape[0]
            for i in range(4):
                lower, upper, at = tile[2 * i, :width], tile[2 * i + 1, :width], k // group
                unpack(lower, upper, weight[k // 2 + i, start:stop], scale[at, start:stop], zero[at, start:stop])
            return 8

        return four_bits

    def numbers(tile, weight, scale, zero, k, start, width):
        count = min(8, weight.shape[0] - k)
        for i in range(count):
            widen(tile[i, :width], weight[k + i, start : start + width])
        return count

    return numbers


@compiled
def widen(floats, stored):
    """Copy stored numbers as float32."""
    for j in range(floats.size):
        floats[j] = to_float(stored[j])


@compiled
def unpack(lower, upper, stored, scale, zero):
    """The two rows that bytes hold, as float32: the numbers that `add_four_bits` multiplies with."""
    for j in range(lower.size):
        s = to_float(scale[j])
        z = fma(np.float32(-8), s, to_float(zero[j]))
        lower[j] = fma(low(stored[j]), s, z)
        upper[j] = fma(high(stored[j]), s, z)


def finish(y, weight, scale, bias, start):
    """Multiply the sums with what the columns have in common, and add the bias."""
    raise NotImplementedError


@overload(finish)
def _finish(y, weight, scale, bias, start):
    if weight.dtype == types.int8:

        def scaled(y, weight, scale, bias, start):
            for j in range(y.size):
                y[j] = y[j] * scale[0, start + j] + bias[start + j]

        return scaled

    def plain(y, weight, scale, bias, start):
        for j in range(y.size):
            y[j] += bias[start + j]

    return plain
