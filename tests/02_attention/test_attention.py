"""Stage 2: attention in four ways compared with PyTorch's kernel, masks, and what a cache must not change."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from attention.attention_visualizer import (
    attention_rollout,
    draw_heatmaps,
    draw_text,
    record_attention,
    stack_layers,
    write_page,
)
from attention.flash_attention import flash_attention, peak_bytes
from attention.masks import (
    causal_mask,
    document_ids,
    document_mask,
    left_padded_positions,
    left_padding_mask,
    visible_keys,
)
from attention.multi_head_attention import MultiHeadAttention
from attention.scaled_dot_product import attention_fused, attention_loops, attention_reference


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 4),
    queries=st.integers(1, 9),
    extra_keys=st.integers(0, 5),
    head_dim=st.sampled_from([1, 2, 8, 16]),
)
def test_loops_matrices_tiles_and_kernel_agree_with_pytorch(batch, heads, queries, extra_keys, head_dim):
    keys = queries + extra_keys
    q = torch.randn(batch, heads, queries, head_dim, dtype=torch.float64)
    k, v = (torch.randn(batch, heads, keys, head_dim, dtype=torch.float64) for _ in range(2))
    allowed = causal_mask(queries, keys)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    output, weights = attention_reference(q, k, v, allowed)
    for ours in (output, attention_fused(q, k, v), attention_fused(q, k, v, allowed), flash_attention(q, k, v, tile=4)):
        torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-10)
    loops = torch.tensor(
        attention_loops(q[0, 0].tolist(), k[0, 0].tolist(), v[0, 0].tolist()), dtype=torch.float64
    )  # fmt: skip
    torch.testing.assert_close(loops, expected[0, 0], atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert not weights[..., ~allowed].any()


def test_attention_without_a_mask_agrees_too():
    q, k, v = (torch.randn(2, 3, n, 8, dtype=torch.float64) for n in (5, 11, 11))
    expected = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(flash_attention(q, k, v, causal=False, tile=3), expected)
    loops = torch.tensor(attention_loops(q[0, 0].tolist(), k[0, 0].tolist(), v[0, 0].tolist(), causal=False))
    torch.testing.assert_close(loops, expected[0, 0].float())


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_heads_equal_repeated_keys_and_values(kv_heads):
    q, k, v = (torch.randn(2, h, 7, 8) for h in (4, kv_heads, kv_heads))
    repeated = [x.repeat_interleave(4 // kv_heads, dim=1) for x in (k, v)]
    expected, _ = attention_reference(q, *repeated, causal_mask(7, 7))
    for ours in (
        attention_fused(q, k, v),
        attention_reference(q, k, v, causal_mask(7, 7))[0],
        flash_attention(q, k, v),
    ):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


# --- FlashAttention ---------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    kv_heads=st.integers(1, 2),
    group=st.integers(1, 3),
    queries=st.integers(1, 20),
    extra_keys=st.integers(0, 9),
    head_dim=st.integers(1, 9),
    tile=st.integers(1, 24),
    causal=st.booleans(),
)
def test_flash_gradients_are_those_of_the_matrix_form(kv_heads, group, queries, extra_keys, head_dim, tile, causal):
    keys = queries + extra_keys
    shapes = [(2, kv_heads * group, queries, head_dim), (2, kv_heads, keys, head_dim), (2, kv_heads, keys, head_dim)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    upstream = torch.randn(shapes[0], dtype=torch.float64)
    mask = causal_mask(queries, keys) if causal else torch.ones(1, 1, dtype=torch.bool)
    expected = torch.autograd.grad(attention_reference(*inputs, mask)[0], inputs, upstream)
    actual = torch.autograd.grad(flash_attention(*inputs, causal=causal, tile=tile), inputs, upstream)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-9)


@pytest.mark.slow
def test_flash_gradients_are_those_of_finite_differences():
    inputs = [torch.randn(1, h, t, 3, dtype=torch.float64, requires_grad=True) for h, t in ((2, 5), (1, 7), (1, 7))]
    assert torch.autograd.gradcheck(lambda q, k, v: flash_attention(q, k, v, tile=2), inputs)


def test_flash_attention_stays_exact_where_scores_are_huge():
    q, k, v = (torch.randn(1, 1, 40, 16) for _ in range(3))
    output = flash_attention(q * 100, k * 100, v, tile=8)  # exp of a score of 10,000 would overflow
    assert output.isfinite().all()
    torch.testing.assert_close(output, attention_fused(q * 100, k * 100, v), atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_memory_of_tiles_is_linear_and_that_of_matrices_quadratic():
    def matrices(q, k, v):
        return attention_reference(q, k, v, causal_mask(q.shape[-2], k.shape[-2]))[0]

    tiles = [peak_bytes(flash_attention, length) for length in (512, 1024, 2048)]
    quadratic = [peak_bytes(matrices, length) for length in (512, 1024, 2048)]
    assert tiles[2] - tiles[1] == pytest.approx(2 * (tiles[1] - tiles[0]), rel=0.05)  # steps double: linear
    assert quadratic[2] / quadratic[1] == pytest.approx(4, rel=0.1)
    assert tiles[2] < quadratic[2] / 20


def test_more_queries_than_keys_are_refused():
    q, k = torch.randn(1, 1, 3, 4), torch.randn(1, 1, 2, 4)
    with pytest.raises(ValueError, match="3 queries at the last of 2 keys"):
        flash_attention(q, k, k)


@pytest.mark.slow
def test_the_triton_kernel_agrees_with_pytorch():
    """Runs on a GPU if there is one, otherwise number by number in Triton's interpreter."""
    pytest.importorskip("triton", reason="Triton is not installed")
    code = """
import torch, torch.nn.functional as F
from attention.flash_attention_triton import flash_attention_triton
from attention.masks import causal_mask
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)
for heads, kv_heads, queries, keys, dim, causal in [(4, 2, 100, 100, 40, True), (2, 1, 3, 130, 64, True), (2, 2, 70, 90, 16, False)]:
    q = torch.randn(2, heads, queries, dim, device=device, requires_grad=True)
    k, v = (torch.randn(2, kv_heads, keys, dim, device=device, requires_grad=True) for _ in range(2))
    mask = causal_mask(queries, keys, device=q.device) if causal else None
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    ours = flash_attention_triton(q, k, v, causal)
    torch.testing.assert_close(ours, expected, atol=2e-6, rtol=1e-4)
    upstream = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad(ours, [q, k, v], upstream), torch.autograd.grad(expected, [q, k, v], upstream)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]


# --- masks ------------------------------------------------------------------------------------


@given(queries=st.integers(1, 12), extra=st.integers(0, 12), window=st.integers(1, 30), sinks=st.integers(0, 4))
def test_a_window_sees_what_its_definition_says(queries, extra, window, sinks):
    keys = queries + extra
    mask = causal_mask(queries, keys, window, sinks)
    for i in range(queries):
        position = extra + i
        for j in range(keys):
            expected = j <= position and (position - j < window or j < sinks)
            assert mask[i, j] == expected


def test_impossible_windows_are_refused():
    with pytest.raises(ValueError, match="must be 1 or more, got 0"):
        causal_mask(3, 3, window=0)
    with pytest.raises(ValueError, match="sinks must not be negative"):
        visible_keys(torch.arange(3), torch.arange(3), 2, -1)


def test_documents_in_one_window_give_what_each_gives_alone():
    attention = MultiHeadAttention(16, 2)
    x = torch.randn(1, 9, 16)
    packed = attention(x, allowed=document_mask(torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2, 2]])))
    alone = torch.cat([attention(x[:, a:b]) for a, b in ((0, 4), (4, 6), (6, 9))], dim=1)
    torch.testing.assert_close(packed, alone, atol=1e-6, rtol=1e-5)
    assert document_ids(torch.tensor([[9, 1, 9, 2]]), 9).tolist() == [[1, 1, 2, 2]]


def test_left_padding_changes_nothing_and_makes_no_nan():
    attention = MultiHeadAttention(16, 2)
    lengths = [3, 7, 5]
    texts = [torch.randn(1, n, 16) for n in lengths]
    padded = torch.cat(
        [torch.cat([torch.randn(1, 7 - n, 16), text], dim=1) for n, text in zip(lengths, texts, strict=True)]
    )
    allowed = left_padding_mask(left_padded_positions(torch.tensor(lengths), 7), 7)
    outputs = attention(padded, allowed=allowed)
    assert outputs.isfinite().all()
    for output, text, n in zip(outputs, texts, lengths, strict=True):
        torch.testing.assert_close(output[7 - n :][None], attention(text), atol=1e-6, rtol=1e-5)


# --- multi-head attention ---------------------------------------------------------------------


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


def test_heads_need_not_fill_the_width():
    attention = MultiHeadAttention(30, 4, 2, head_dim=16)
    assert attention(torch.randn(2, 5, 30)).shape == (2, 5, 30)
    assert attention.query.weight.shape == (64, 30) and attention.key.weight.shape == (32, 30)


def test_a_window_limits_what_reaches_a_position():
    attention = MultiHeadAttention(16, 2, window=3, sinks=1)
    x = torch.randn(1, 10, 16)
    before = attention(x)
    changed = x.clone()
    changed[:, 4] += 1
    differs = (attention(changed) - before).abs().amax(-1)[0] > 1e-6
    assert differs.nonzero().flatten().tolist() == [4, 5, 6]
    changed = x.clone()
    changed[:, 0] += 1  # the sink
    assert ((attention(changed) - before).abs().amax(-1)[0] > 1e-6).all()


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="30 / 4 is not whole"):
        MultiHeadAttention(30, 4)
    with pytest.raises(ValueError, match="num_kv_heads must divide num_heads"):
        MultiHeadAttention(32, 4, 3)


# --- visualizer -------------------------------------------------------------------------------


@pytest.fixture
def recorded() -> torch.Tensor:
    layers = torch.nn.ModuleList(MultiHeadAttention(16, 2, num_kv_heads=1, layer=i, window=4) for i in range(3))
    x = torch.randn(1, 6, 16)
    with record_attention(layers) as weights:
        outputs = [layer(x) for layer in layers]
    assert all(layer.observer is None for layer in layers)
    for layer, output in zip(layers, outputs, strict=True):
        torch.testing.assert_close(layer(x), output)  # recording changes the computation, but not the result
    return stack_layers(weights)


def test_recorded_weights_are_distributions_over_visible_tokens(recorded):
    assert recorded.shape == (3, 2, 6, 6)
    torch.testing.assert_close(recorded.sum(-1), torch.ones(3, 2, 6))
    assert not recorded[..., ~causal_mask(6, 6, window=4)].any()


def test_rollout_is_a_distribution_and_of_one_layer_the_mean_with_the_residual(recorded):
    rollout = attention_rollout(recorded)
    torch.testing.assert_close(rollout.sum(-1), torch.ones(6))
    one = attention_rollout(recorded[:1])
    torch.testing.assert_close(one, 0.5 * recorded[0].mean(0) + 0.5 * torch.eye(6))


def test_the_page_needs_nothing_else_and_tokens_cannot_break_out_of_it(recorded, tmp_path: Path):
    tokens = ["</script><script>alert(1)</script>", "a", " b", "\n", "é", "“"]
    page = write_page(recorded, tokens, tmp_path / "page.html", title="<b>").read_text(encoding="utf-8")
    assert not re.search(r"https?://|src=|<link", page)
    assert page.count("</script>") == 2 and "<script>alert" not in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["tokens"] == tokens and len(data["layers"]) == 3 and len(data["layers"][0]) == 2
    assert [len(row) for row in data["layers"][2][1]] == [1, 2, 3, 4, 5, 6]
    assert data["layers"][1][0][5][5] == round(recorded[1, 0, 5, 5].item() * 1000)


@pytest.mark.slow
def test_heat_maps_are_drawn_for_any_tokens(recorded, tmp_path: Path):
    path = draw_heatmaps(recorded, ["$x$", "\n", " ", "^", "\\", "Ω"], tmp_path / "new" / "map.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_text_drawing_names_the_token_with_most_weight():
    weights = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    assert draw_text(weights, ["a", "b"]).splitlines()[1].endswith("0.90 on a")
