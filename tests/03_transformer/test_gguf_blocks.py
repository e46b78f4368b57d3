"""Stage 3: blocks of quantized weights give the numbers of llama.cpp's own reference."""

from __future__ import annotations

import numpy as np
import pytest

from transformer.gguf_blocks import KINDS, dequantize

gguf = pytest.importorskip("gguf")
GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize("kind", KINDS)
def test_any_bytes_give_the_numbers_of_the_reference(kind: str):
    num_bytes, num_weights, _ = KINDS[kind]
    data = GENERATOR.integers(0, 256, (50, 4 * num_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):  # random bytes as scales: some are infinite
        expected = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind])
        found = dequantize(data, kind, (50, 4 * num_weights))
    assert np.array_equal(found, expected, equal_nan=True)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_weights_come_back_as_near_as_their_bits_allow(kind: str):
    weights = GENERATOR.normal(size=(8, 128)).astype(np.float32)
    stored = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[kind])
    steps = {"Q4_0": 15, "Q4_1": 15, "Q5_0": 31, "Q5_1": 31, "Q8_0": 254}[kind]
    assert np.abs(dequantize(stored, kind, weights.shape) - weights).max() < 1.1 * 2 * np.abs(weights).max() / steps


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="of the kind IQ2_XS are not read; the kinds are F32"):
        dequantize(np.zeros(10, np.uint8), "IQ2_XS", (1, 32))
    with pytest.raises(ValueError, match="33 bytes of Q8_0 are not the 34"):
        dequantize(np.zeros(33, np.uint8), "Q8_0", (1, 32))
