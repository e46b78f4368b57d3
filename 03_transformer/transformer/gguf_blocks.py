"""The numbers of GGUF files: blocks of small integers with a scale, and how to make floating-point numbers of them.

llama.cpp stores a matrix row by row, and each row in blocks of 32 or 256 weights. The simplest kind, Q8_0, is a
float16 scale d and 32 signed bytes q, and a weight is d · q. The kinds with `_1` add a smallest value m: d · q + m. The
K kinds have 8 or 16 sub-blocks in a block of 256, each with a small scale of its own, which the scale of the block
multiplies.

The functions read blocks as bytes (blocks, bytes of a block) and return float32 (blocks, weights of a block). They are
checked against `gguf.quants`, the reference in NumPy of llama.cpp's authors.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def _float16(block: Bytes, at: int) -> Floats:
    """The float16 at a place of each block: (blocks, 1)."""
    return np.ascontiguousarray(block[:, at : at + 2]).view(np.float16).astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """All low halves of the bytes, then all high halves: (…, n) → (…, 2n)."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _q8_0(block: Bytes) -> Floats:
    return _float16(block, 0) * block[:, 2:].view(np.int8)


def _q4_0(block: Bytes) -> Floats:
    return _float16(block, 0) * (_nibbles(block[:, 2:]).astype(np.int8) - 8)


def _q4_1(block: Bytes) -> Floats:
    return _float16(block, 0) * _nibbles(block[:, 4:]) + _float16(block, 2)


def _fifth_bits(packed: Bytes) -> Bytes:
    """32 bits of four bytes, lowest first, in the place of the fifth bit: (blocks, 4) → (blocks, 32)."""
    bits: Bytes = np.unpackbits(packed, axis=-1, bitorder="little")
    return bits << np.uint8(4)


def _q5_0(block: Bytes) -> Floats:
    numbers = _nibbles(block[:, 6:]) | _fifth_bits(block[:, 2:6])
    return _float16(block, 0) * (numbers.astype(np.int8) - 16)


def _q5_1(block: Bytes) -> Floats:
    numbers = _nibbles(block[:, 8:]) | _fifth_bits(block[:, 4:8])
    return _float16(block, 0) * numbers + _float16(block, 2)


def _six_bit_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Scales and smallest values of 8 sub-blocks, 6 bits each: (blocks, 12) → twice (blocks, 8, 1).

    The first four of each are the low 6 bits of bytes 0 to 3 and 4 to 7. The others have their low 4 bits in bytes 8
    to 11 and their high 2 bits in the bits that the first ones left.
    """
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=-1)
    smallest = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=-1)
    return scales[:, :, None], smallest[:, :, None]


def _k_blocks(block: Bytes, numbers: Bytes) -> Floats:
    """d · scale · q - dmin · smallest, for 8 sub-blocks of 32: (blocks, 8, 32) → (blocks, 256)."""
    scales, smallest = _six_bit_scales(block[:, 4:16])
    d, dmin = _float16(block, 0)[:, None], _float16(block, 2)[:, None]
    return (d * scales * numbers - dmin * smallest).reshape(-1, 256)


def _q4_k(block: Bytes) -> Floats:
    # 32 bytes hold two sub-blocks, one in the low and one in the high halves.
    return _k_blocks(block, _nibbles(block[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32))


def _q5_k(block: Bytes) -> Floats:
    low = _nibbles(block[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    # Bit s of byte i is the fifth bit of weight i of sub-block s.
    fifth = block[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[None, :, None] & np.uint8(1)
    return _k_blocks(block, low | (fifth << 4).astype(np.uint8))


def _q6_k(block: Bytes) -> Floats:
    # Each half of the block: 64 bytes with low 4 bits, 32 bytes with high 2 bits, 8 scales for 16 weights each.
    low = _nibbles(block[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    high = block[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], dtype=np.uint8)[:, None] & 3
    numbers = (low | high << 4).astype(np.int8) - 32
    scales = block[:, 192:208].view(np.int8).reshape(-1, 16, 1)
    return (_float16(block, 208)[:, None] * scales * numbers.reshape(-1, 16, 16)).reshape(-1, 256)


# Kind: bytes of a block, weights of a block, how to read it.
KINDS: dict[str, tuple[int, int, Callable[[Bytes], Floats]]] = {
    "F32": (4, 1, lambda block: np.ascontiguousarray(block).view(np.float32)),
    "F16": (2, 1, lambda block: _float16(block, 0)),
    # bfloat16 is the first half of a float32.
    "BF16": (
        2,
        1,
        lambda block: (np.ascontiguousarray(block).view(np.uint16).astype(np.uint32) << 16).view(np.float32),
    ),
    "Q8_0": (34, 32, _q8_0),
    "Q4_0": (18, 32, _q4_0),
    "Q4_1": (20, 32, _q4_1),
    "Q5_0": (22, 32, _q5_0),
    "Q5_1": (24, 32, _q5_1),
    "Q4_K": (144, 256, _q4_k),
    "Q5_K": (176, 256, _q5_k),
    "Q6_K": (210, 256, _q6_k),
}


def dequantize(data: Bytes, kind: str, shape: tuple[int, ...]) -> Floats:
    """The numbers of a tensor.

    Args:
        data: its bytes.
        kind: one of `KINDS`.
        shape: of the tensor, the longest stretch in memory last.

    Returns:
        float32 of this shape.

    Raises:
        ValueError: the kind is not known, or there are not as many bytes as the shape needs.
    """
    if kind not in KINDS:
        raise ValueError(f"weights of the kind {kind} are not read; the kinds are {', '.join(KINDS)}")
    num_bytes, num_weights, read = KINDS[kind]
    expected = int(np.prod(shape, dtype=np.int64)) // num_weights * num_bytes
    flat = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
    if flat.size != expected or shape[-1] % num_weights:
        raise ValueError(f"{flat.size} bytes of {kind} are not the {expected} that the shape {shape} needs")
    numbers = read(flat.reshape(-1, num_bytes)).reshape(shape)
    return numbers if numbers.flags.writeable else numbers.copy()  # a view of the file, which cannot be written
