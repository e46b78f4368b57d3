"""A matrix times a few rows, with each weight read from memory once.

For x (rows, in) and W (in, out), the usual way to compute x W takes one output after the other and adds up its products:
a vector unit then has eight or sixteen partial sums, and the order in which they are added depends on the code. Here the
loop over the inputs is outside: y += x[k] · W[k], a whole row of W at a time. Each output is then one chain of
additions in the order of k, however many lanes, rows, columns or threads there are. So a row's numbers are the same
whatever is computed beside it, and W is read in the order in which it is stored.

A y that is read and written for each k would cost as much as W. So eight rows of W are added at a time. With several rows
of x, a weight that has been read, and made a float32, is used for four of them, whose sums stay in registers meanwhile.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from optimization.kernels.lanes import LANES, add_products, add_scaled, load, load_four_bits, save
from optimization.kernels.numbers import fma, kernel, to_float

TILE = 1536  # columns of eight rows of W, which stay in a cache while all rows of x use them


@kernel
def multiply(x, inputs, matrix, layer, start, stop, y):
    """y[:, start:stop] = x[:, :inputs] · W[:, start:stop] + bias.

    Args:
        x: (rows, at least inputs) float32.
        inputs: the rows of W.
        matrix: a `Matrix`.
        layer: which one of its matrices.
        start: first column.
        stop: the column after the last one.
        y: (rows, at least stop) float32.
    """
    weight, scale, zero, bias = matrix.weight[layer], matrix.scale[layer], matrix.zero[layer], matrix.bias[layer]
    rows, whole = x.shape[0], inputs - inputs % 8
    tile = stop - start if rows == 1 else TILE
    for first in range(start, stop, tile):
        last = min(first + tile, stop)
        middle = first if rows == 1 else last - (last - first) % LANES  # before it, columns come in sixteens
        for row in range(rows):
            for j in range(first, last):
                y[row, j] = 0
        for k in range(0, whole, 8):
            if first < middle:
                for row in range(0, rows, 4):
                    add_to_four(y, x, row, k, weight, scale, zero, first, middle)
            if middle < last:
                for row in range(rows):
                    add_eight(y[row, middle:last], x[row], k, weight, scale, zero, middle)
        for k in range(whole, inputs):
            add_last(y, x, k, weight, first, last)
        for row in range(rows):
            finish(y[row, first:last], weight, scale, bias, first)


def add_to_four(y, x, row, k, weight, scale, zero, start, stop):
    """y[r, start:stop] += x[r, k : k + 8] · W[k : k + 8, start:stop] for the four rows r from `row` on."""
    raise NotImplementedError("Numba calls the version for the types; see `overload` below")


@overload(add_to_four)
def _add_to_four(y, x, row, k, weight, scale, zero, start, stop):
    if weight.dtype == types.uint8:

        def four_bits(y, x, row, k, weight, scale, zero, start, stop):
            last, group = x.shape[0] - 1, k * scale.shape[0] // (2 * weight.shape[0])
            r1, r2, r3 = min(row + 1, last), min(row + 2, last), min(row + 3, last)  # the last row may be done twice
            for j in range(start, stop, LANES):
                a = load(scale, group, j)
                b = add_scaled(load(zero, group, j), np.float32(-8), a)
                s, t, u, v = load(y, row, j), load(y, r1, j), load(y, r2, j), load(y, r3, j)
                for i in range(k, k + 8):
                    w = add_products(b, load_four_bits(weight, i, j), a)
                    s, t = add_scaled(s, x[row, i], w), add_scaled(t, x[r1, i], w)
                    u, v = add_scaled(u, x[r2, i], w), add_scaled(v, x[r3, i], w)
                save(y, row, j, s)
                save(y, r1, j, t)
                save(y, r2, j, u)
                save(y, r3, j, v)

        return four_bits

    def numbers(y, x, row, k, weight, scale, zero, start, stop):
        last = x.shape[0] - 1
        r1, r2, r3 = min(row + 1, last), min(row + 2, last), min(row + 3, last)  # the last row may be done twice
        for j in range(start, stop, LANES):
            s, t, u, v = load(y, row, j), load(y, r1, j), load(y, r2, j), load(y, r3, j)
            for i in range(k, k + 8):
                w = load(weight, i, j)
                s, t = add_scaled(s, x[row, i], w), add_scaled(t, x[r1, i], w)
                u, v = add_scaled(u, x[r2, i], w), add_scaled(v, x[r3, i], w)
            save(y, row, j, s)
            save(y, r1, j, t)
            save(y, r2, j, u)
            save(y, r3, j, v)

    return numbers


def add_eight(y, x, k, weight, scale, zero, start):
    """y += x[k : k + 8] · W[k : k + 8, start : start + len(y)]."""
    raise NotImplementedError("Numba calls the version for the types; see `overload` below")


@overload(add_eight)
def _add_eight(y, x, k, weight, scale, zero, start):
    if weight.dtype == types.uint8:

        def four_bits(y, x, k, weight, scale, zero, start):
            byte, group, stop = k // 2, k * scale.shape[0] // (2 * weight.shape[0]), start + y.size
            w0, w1 = weight[byte, start:stop], weight[byte + 1, start:stop]
            w2, w3 = weight[byte + 2, start:stop], weight[byte + 3, start:stop]
            add_four_bits(y, x, k, w0, w1, w2, w3, scale[group, start:stop], zero[group, start:stop])

        return four_bits

    def numbers(y, x, k, weight, scale, zero, start):
        stop = start + y.size
        w0, w1 = weight[k, start:stop], weight[k + 1, start:stop]
        w2, w3 = weight[k + 2, start:stop], weight[k + 3, start:stop]
        w4, w5 = weight[k + 4, start:stop], weight[k + 5, start:stop]
        add_to_one(y, x, k, w0, w1, w2, w3, w4, w5, weight[k + 6, start:stop], weight[k + 7, start:stop])

    return numbers


@kernel
def add_to_one(y, x, k, w0, w1, w2, w3, w4, w5, w6, w7):
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


@kernel
def add_four_bits(y, x, k, w0, w1, w2, w3, scale, zero):
    """`add_to_one` for weights of 4 bits: w0 holds the rows k (lower half of a byte) and k + 1, and so on."""
    x0, x1, x2, x3, x4, x5, x6, x7 = x[k], x[k + 1], x[k + 2], x[k + 3], x[k + 4], x[k + 5], x[k + 6], x[k + 7]
    for j in range(y.size):
        a = to_float(scale[j])
        b = fma(np.float32(-8), a, to_float(zero[j]))
        t = fma(x0, fma(low(w0[j]), a, b), y[j])
        t = fma(x1, fma(high(w0[j]), a, b), t)
        t = fma(x2, fma(low(w1[j]), a, b), t)
        t = fma(x3, fma(high(w1[j]), a, b), t)
        t = fma(x4, fma(low(w2[j]), a, b), t)
        t = fma(x5, fma(high(w2[j]), a, b), t)
        t = fma(x6, fma(low(w3[j]), a, b), t)
        y[j] = fma(x7, fma(high(w3[j]), a, b), t)


@kernel
def low(byte):
    """The lower four bits as float32."""
    return np.float32(np.int32(byte) & np.int32(15))


@kernel
def high(byte):
    """The upper four bits as float32."""
    return np.float32(np.int32(byte) >> np.int32(4))


@kernel
def add_last(y, x, k, weight, start, stop):
    """y[:, start:stop] += x[:, k] · W[k, start:stop], for the last inputs if their number is no multiple of eight."""
    for row in range(x.shape[0]):
        number = x[row, k]
        for j in range(start, stop):
            y[row, j] = fma(number, to_float(weight[k, j]), y[row, j])


def finish(y, weight, scale, bias, start):
    """Multiply the sums with what the columns have in common, and add the bias."""
    raise NotImplementedError("Numba calls the version for the types; see `overload` below")


@overload(finish)
def _finish(y, weight, scale, bias, start):
    if weight.dtype == types.int8:

        def scaled(y, weight, scale, bias, start):
            for j in range(y.size):
                y[j] = fma(y[j], scale[0, start + j], bias[start + j])

        return scaled

    def plain(y, weight, scale, bias, start):
        for j in range(y.size):
            y[j] += bias[start + j]

    return plain
