"""Stage 7: whatever the size of a matrix, a packed layer gives what the plain layer gives."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from optimization.model_loading import inference_copy
from optimization.weights import packed_quantized
from optimization.weights.packed_linear import PackedLinear, packing_is_available
from optimization.weights.packed_quantized import kernel_is_right, pack_quantized_layer
from optimization.weights.quantization import Int4Linear, Int8Linear, W8A8Linear, quantize_rows
from optimization.weights.quantized_model import quantize_model
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

WIDTHS = [1, 2, 3, 7, 8, 15, 16, 17, 24, 31, 33, 36, 48, 64, 65, 100, 127, 200, 333]
OUTPUTS = [1, 2, 3, 5, 15, 16, 17, 31, 33, 48, 63, 64, 65, 130]
ROWS = [0, 1, 2, 3, 4, 5, 9, 17]
KINDS = [Int8Linear, W8A8Linear, Int4Linear]


def a_layer(kind, outputs: int, width: int, bias: bool = False):
    linear = nn.Linear(width, outputs, bias)
    layer = kind(outputs, width, bias)
    layer.quantize(linear)
    return layer


def assert_same(packed: nn.Module, plain: nn.Module, x: torch.Tensor, tolerance: float = 0.02) -> None:
    with torch.no_grad():
        found, expected = packed(x), plain(x)
    assert found.shape == expected.shape and found.dtype == x.dtype
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_every_width_number_of_outputs_and_of_rows_is_computed_right(kind):
    torch.manual_seed(0)
    widths = [64, 128, 192] if kind is Int4Linear else WIDTHS
    sizes = (
        [(outputs, 64) for outputs in OUTPUTS] + [(24, width) for width in widths] + [(1, widths[0]), (3, widths[-1])]
    )
    for number, (outputs, width) in enumerate(sizes):
        layer = a_layer(kind, outputs, width, bias=number % 2 == 0)
        packed = pack_quantized_layer(layer)
        if kernel_is_right(kind):
            assert packed is not layer
        for rows in ROWS:
            for dtype in (torch.float32, torch.bfloat16):
                assert_same(packed, layer, torch.randn(rows, width).to(dtype))


@pytest.mark.parametrize("kind", [nn.Linear, *KINDS])
def test_rows_that_are_a_part_of_something_else_are_read_where_they_are(kind):
    torch.manual_seed(0)
    linear = nn.Linear(64, 20)
    layer = linear if kind is nn.Linear else a_layer(kind, 20, 64, True)
    packed = PackedLinear(linear) if kind is nn.Linear else pack_quantized_layer(layer)
    for dtype in (torch.float32, torch.bfloat16):
        if kind is nn.Linear:
            if not packing_is_available(torch.device("cpu"), dtype):
                continue
            layer = nn.Linear(64, 20).to(dtype)
            packed = PackedLinear(layer)
        wide = torch.randn(6, 200).to(dtype)
        for x in (
            wide[:, 70:134],  # the rows are not neighbours
            wide.view(-1)[3 : 3 + 64 * 9].view(9, 64),  # the first number is at an odd address
            wide[:, :64][::2],
            torch.randn(64, 7).to(dtype).T,
            torch.randn(1, 64).to(dtype).expand(5, 64),
            torch.randn(2, 0, 64).to(dtype),
            torch.randn(2, 3, 64).to(dtype)[:, 1:],
        ):
            assert_same(packed, layer, x)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_are_not_finite_stay_in_their_row(kind):
    layer = a_layer(kind, 24, 64)
    packed = pack_quantized_layer(layer)
    x = torch.randn(5, 64)
    for bad in (float("nan"), float("inf")):
        broken = x.clone()
        broken[2, 7] = bad
        for run in (packed, layer):
            y = run(broken)
            assert not y[2].isfinite().any()
            torch.testing.assert_close(y[[0, 1, 3, 4]], run(x)[[0, 1, 3, 4]], atol=0.02, rtol=0.02)


def test_integer_sums_are_exact_whatever_their_length():
    torch.manual_seed(0)
    for width in (1, 1023, 1024, 1025, 5000):
        layer = W8A8Linear(3, width, False)
        layer.weight.copy_(torch.randint(-127, 128, (3, width)))
        layer.weight[0] = 127
        x = torch.randint(-127, 128, (4, width)).float()
        x[:, 0], x[0] = 127, 127  # so that the scale is 1
        q, scale = quantize_rows(x)
        assert torch.equal(q.float(), x) and (scale == 1).all()
        expected = (q.long() @ layer.weight.long().T).float()
        assert torch.equal(layer(x), expected)


def test_matrices_beyond_what_a_kernel_can_count_are_left_to_the_plain_layer(monkeypatch):
    monkeypatch.setattr(packed_quantized, "MAX_ELEMENTS", 100 * 100)
    monkeypatch.setattr(packed_quantized, "MAX_TERMS", 64)
    for kind in KINDS:
        small, large = a_layer(kind, 20, 64), a_layer(kind, 120, 128)
        assert (pack_quantized_layer(small) is not small) == kernel_is_right(kind)
        assert pack_quantized_layer(large) is large
        # More rows than can be counted at once come in parts.
        assert_same(pack_quantized_layer(small), small, torch.randn(300, 64))
    wide = a_layer(W8A8Linear, 20, 65)
    assert pack_quantized_layer(wide) is wide


def test_trying_a_kernel_uses_no_random_numbers():
    kernel_is_right.cache_clear()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    for kind in KINDS:
        kernel_is_right(kind)
    assert torch.equal(torch.rand(3), expected)


def test_a_kernel_that_is_wrong_on_this_machine_is_not_used(monkeypatch):
    class Wrong(packed_quantized.PackedW8A8Linear):
        def _multiply(self, rows):
            return super()._multiply(rows).clamp(-30, 30)

    class Missing(packed_quantized.PackedW8A8Linear):
        def _multiply(self, rows):
            raise NotImplementedError("no kernel")

    layer = a_layer(W8A8Linear, 20, 64)
    for kind in (Wrong, Missing):
        kernel_is_right.cache_clear()
        monkeypatch.setitem(packed_quantized.PACKED, W8A8Linear, kind)
        assert pack_quantized_layer(layer) is layer
    kernel_is_right.cache_clear()


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of PyTorch has no oneDNN")
@pytest.mark.parametrize("processor", ["SSE41", "AVX2", "AVX512_CORE"])
def test_on_older_processors_the_numbers_are_the_same(processor):
    """They have no instructions for sums of 8-bit products, and add in 16 bits what does not fit there."""
    script = (
        "import torch; from optimization.weights.packed_quantized import *\n"
        "for kind in (Int8Linear, W8A8Linear, Int4Linear):\n"
        "    layer = kind(32, 64, False); linear = torch.nn.Linear(64, 32, bias=False)\n"
        "    with torch.no_grad(): linear.weight.fill_(0.5)\n"
        "    layer.quantize(linear); x = torch.ones(6, 64)\n"
        "    assert torch.allclose(pack_quantized_layer(layer)(x), layer(x), rtol=0.02), kind\n"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": processor}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("method", ["int8", "w8a8"])
def test_a_model_of_an_odd_width_is_served_in_8_bits(method):
    """Its rows are no multiple of 16, as those of the 4-bit error message, which advises 8 bits."""
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=37, context_length=16, num_layers=2, num_heads=3, d_model=30, d_ff=50, bias=True)
    model = GPTModel(config).eval()
    with pytest.raises(ValueError, match="rows of 30: use int8 or w8a8"):
        quantize_model(model, "int4")
    quantized = quantize_model(model, method)
    ids = torch.randint(37, (2, 9))
    with torch.no_grad():
        plain, packed = quantized(ids), inference_copy(quantized, torch.float32)(ids)
    torch.testing.assert_close(packed, plain, atol=0.02, rtol=0.02)
