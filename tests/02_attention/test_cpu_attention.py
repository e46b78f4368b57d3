"""Stage 2: blocked attention in bfloat16 for training on CPUs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from attention import cpu_attention
from attention.scaled_dot_product import attention_fused


@pytest.mark.parametrize(("time", "heads", "kv_heads"), [(5, 4, 4), (128, 2, 2), (200, 4, 2), (300, 2, 1)])
def test_blocked_attention_and_its_gradients_are_those_of_the_fused_kernel(time, heads, kv_heads):
    exact = [torch.randn(2, n, time, 16, requires_grad=True) for n in (heads, kv_heads, kv_heads)]
    rounded = [x.detach().bfloat16().requires_grad_() for x in exact]
    grad = torch.randn(2, heads, time, 16)
    expected = F.scaled_dot_product_attention(*exact, is_causal=True, enable_gqa=True)
    expected.backward(grad)
    assert cpu_attention.suits_blocked_attention(rounded[0], rounded[1])
    output = attention_fused(*rounded)
    output.backward(grad.bfloat16())
    for mine, theirs in [(output, expected), *((a.grad, b.grad) for a, b in zip(rounded, exact, strict=True))]:
        # bfloat16 has 8 bits: errors are about 2^-8 of the size of the numbers
        assert (mine.float() - theirs).norm() < 0.01 * theirs.norm()


def test_the_future_has_no_influence():
    q, k, v = (torch.randn(1, 1, 200, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    before = attention_fused(q, k, v)
    with torch.no_grad():
        k[:, :, 150:] += 1
        v[:, :, 150:] += 1
    assert torch.equal(before[:, :, :150], attention_fused(q, k, v)[:, :, :150])


def test_float32_inference_and_long_contexts_stay_with_the_fused_kernel():
    suits = cpu_attention.suits_blocked_attention
    q = torch.randn(1, 1, 8, 8, requires_grad=True)
    assert not suits(q, q)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert suits(q, q)
    low = q.detach().bfloat16().requires_grad_()
    with torch.no_grad():
        assert not suits(low, low)
    long = torch.randn(1, 1, cpu_attention.MAX_TIME + 1, 1, dtype=torch.bfloat16, requires_grad=True)
    assert not suits(long, long)
