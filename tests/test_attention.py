"""Stage 2: attention against PyTorch's kernel, and what a mask must guarantee."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from attention.masks import causal_mask
from attention.multi_head_attention import MultiHeadAttention
from attention.scaled_dot_product import attention_fused, attention_reference


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 4),
    queries=st.integers(1, 9),
    extra_keys=st.integers(0, 5),
    head_dim=st.sampled_from([1, 2, 8, 16]),
)
def test_reference_and_fused_attention_agree_with_pytorch(batch, heads, queries, extra_keys, head_dim):
    keys = queries + extra_keys
    q = torch.randn(batch, heads, queries, head_dim, dtype=torch.float64)
    k = torch.randn(batch, heads, keys, head_dim, dtype=torch.float64)
    v = torch.randn(batch, heads, keys, head_dim, dtype=torch.float64)
    allowed = causal_mask(queries, keys)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    output, weights = attention_reference(q, k, v, allowed)
    torch.testing.assert_close(output, expected, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(attention_fused(q, k, v), expected, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert not weights[..., ~allowed].any()


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_heads_equal_repeated_keys_and_values(kv_heads):
    q, k, v = (torch.randn(2, h, 7, 8) for h in (4, kv_heads, kv_heads))
    repeated = [x.repeat_interleave(4 // kv_heads, dim=1) for x in (k, v)]
    expected, _ = attention_reference(q, *repeated, causal_mask(7, 7))
    torch.testing.assert_close(attention_fused(q, k, v), expected, atol=1e-5, rtol=1e-4)


def test_multi_head_attention_equals_pytorchs_module():
    ours = MultiHeadAttention(32, 4, bias=True)
    theirs = torch.nn.MultiheadAttention(32, 4, bias=True, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        theirs.out_proj.load_state_dict(ours.output.state_dict())
    x = torch.randn(2, 9, 32)
    expected, _ = theirs(x, x, x, attn_mask=~causal_mask(9, 9), need_weights=False)
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-4)


def test_qk_norm_makes_scores_independent_of_the_size_of_queries():
    attention = MultiHeadAttention(16, 2, query_norm=torch.nn.RMSNorm(8), key_norm=torch.nn.RMSNorm(8))
    x = torch.randn(1, 6, 16)
    before = attention(x)
    with torch.no_grad():
        attention.query.weight *= 50
    torch.testing.assert_close(attention(x), before, atol=1e-4, rtol=1e-3)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="30 / 4 is not whole"):
        MultiHeadAttention(30, 4)
    with pytest.raises(ValueError, match="num_kv_heads must divide num_heads"):
        MultiHeadAttention(32, 4, 3)
