"""Numbers as a processor handles them: fused operations, and types that Python does not have."""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic, overload

from groundwork.compiled import compiled

kernel = compiled(allocates=False, error_model="numpy")
# The compiler chooses the order of sums. It chooses once: each call adds in that order.
kernel_in_any_order = compiled(allocates=False, error_model="numpy", fastmath={"reassoc", "contract"})

LOG2_E = np.float32(1.4426950408889634)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # their sum is ln 2; n · LN2_HIGH is exact
ROUNDING = np.float32(12582912.0)  # 1.5 · 2²³: a float32 next to it has no digits after the point


@intrinsic
def fma(typing, a, b, c):
    """a · b + c in float32, rounded once. Written out, because a compiler may fuse or not, as it likes."""
    signature = types.float32(types.float32, types.float32, types.float32)
    return signature, lambda context, builder, signature, arguments: builder.fma(*arguments)


def to_float(number):
    """A stored number as float32: float32 itself, an integer of 8 bits, or bfloat16 in the bits of a uint16."""
    raise NotImplementedError("Numba calls the version for the types; see `overload` below")


@overload(to_float)
def _to_float(number):
    if number == types.uint16:  # bfloat16 is the upper half of a float32
        return lambda number: np.uint32(np.uint32(number) << np.uint32(16)).view(np.float32)
    return lambda number: np.float32(number)


@kernel
def to_bfloat16(number):
    """The bits of the nearest bfloat16, as a uint16; of two equally near ones, the even one."""
    bits = np.float32(number).view(np.uint32)
    if number != number:
        return np.uint16(0x7FC0)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@kernel
def exponential(x):
    """exp(x) in float32, off by one or two last bits.

    A call of the C library would be made for one number at a time; this loop body becomes vector instructions:
    exp(x) = 2ⁿ · exp(r) with n = round(x / ln 2) and |r| <= ln 2 / 2, where a polynomial of degree 7 is exact enough.
    """
    x = np.float32(-87.0) if x < np.float32(-87.0) else x  # comparisons that leave nan as it is
    x = np.float32(88.0) if x > np.float32(88.0) else x
    n = fma(x, LOG2_E, ROUNDING) - ROUNDING
    r = fma(-n, LN2_LOW, fma(-n, LN2_HIGH, x))
    p = np.float32(1.9875691500e-4)
    p = fma(p, r, np.float32(1.3981999507e-3))
    p = fma(p, r, np.float32(8.3334519073e-3))
    p = fma(p, r, np.float32(4.1665795894e-2))
    p = fma(p, r, np.float32(1.6666665459e-1))
    p = fma(p, r, np.float32(5.0000001201e-1))
    p = fma(p, r * r, r + np.float32(1.0))
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
