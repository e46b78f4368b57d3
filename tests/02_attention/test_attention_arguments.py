"""Stage 2: what a newcomer may pass by mistake gives the right numbers or one clear error."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from attention.attention_visualizer import attention_rollout, draw_heatmaps, record_attention, stack_layers, write_page
from attention.flash_attention import flash_attention
from attention.masks import causal_mask, left_padded_positions, left_padding_mask
from attention.multi_head_attention import MultiHeadAttention
from attention.scaled_dot_product import attention_fused, attention_loops, attention_reference


@pytest.mark.parametrize("queries", [1, 3, 5])
@pytest.mark.parametrize("with_bias", [False, True])
def test_no_mask_means_causal_in_every_way_to_compute_attention(queries, with_bias):
    q, k, v = (torch.randn(2, 2, n, 4, dtype=torch.float64) for n in (queries, 5, 5))
    bias = torch.randn(2, queries, 5, dtype=torch.float64) if with_bias else None
    mask = torch.where(causal_mask(queries, 5), 0.0 if bias is None else bias, -torch.inf)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(attention_reference(q, k, v, bias=bias)[0], expected)
    torch.testing.assert_close(attention_fused(q, k, v, bias=bias), expected)
    if bias is None:
        torch.testing.assert_close(flash_attention(q, k, v), expected)
        loops = attention_loops(q[0, 0].tolist(), k[0, 0].tolist(), v[0, 0].tolist())
        torch.testing.assert_close(torch.tensor(loops, dtype=torch.float64), expected[0, 0])


def test_a_mask_of_true_shows_every_key_in_every_way():
    q, k, v = (torch.randn(2, 2, n, 4) for n in (3, 5, 5))
    everything = torch.ones(1, 1, dtype=torch.bool)
    expected = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attention_reference(q, k, v, everything)[0], expected)
    torch.testing.assert_close(attention_fused(q, k, v, everything), expected)


def test_a_mask_of_zeros_and_ones_is_refused_and_not_added_to_the_scores():
    q = torch.randn(1, 2, 5, 8)
    with pytest.raises(ValueError, match=r"allowed must be boolean, got torch\.float32"):
        attention_fused(q, q, q, torch.tril(torch.ones(5, 5)))


def test_more_queries_than_keys_are_refused_everywhere():
    q, k = torch.randn(1, 1, 3, 4), torch.randn(1, 1, 2, 4)
    positions = torch.zeros(1, 2, dtype=torch.long)
    for attend in (
        lambda: causal_mask(3, 2),
        lambda: left_padding_mask(positions, 3),
        lambda: attention_reference(q, k, k),
        lambda: attention_fused(q, k, k),
        lambda: attention_loops(q[0, 0].tolist(), k[0, 0].tolist(), k[0, 0].tolist()),
    ):
        with pytest.raises(ValueError, match="3 queries at the last of 2 keys"):
            attend()


def test_loops_refuse_values_without_a_key():
    with pytest.raises(ValueError, match="2 keys and 3 values"):
        attention_loops([[1.0]] * 2, [[1.0]] * 2, [[1.0]] * 3)


def test_key_value_heads_that_do_not_divide_are_named():
    q, k = torch.randn(1, 2, 5, 8), torch.randn(1, 3, 5, 8)
    with pytest.raises(ValueError, match="2 / 3 is not whole"):
        attention_reference(q, k, k)


def test_tiles_refuse_what_they_would_turn_into_nonsense():
    q = torch.randn(1, 2, 5, 8)
    with pytest.raises(ValueError, match=r"floating-point \(batch, heads, time, head_dim\), got .*\(2, 5, 8\)"):
        flash_attention(q[0], q[0], q[0])
    with pytest.raises(ValueError, match=r"got torch\.int64"):
        flash_attention(q.long(), q.long(), q.long())
    with pytest.raises(ValueError, match="a tile must hold at least one"):
        flash_attention(q, q, q, tile=-1)


def test_a_sequence_longer_than_its_columns_is_refused():
    with pytest.raises(ValueError, match="3 tokens does not fit 2 columns"):
        left_padded_positions(torch.tensor([3, 1]), 2)


@pytest.mark.parametrize("sizes", [{"num_heads": 0}, {"num_heads": -2}, {"num_kv_heads": 0}, {"head_dim": -3}])
def test_sizes_of_attention_below_one_are_refused(sizes):
    ((name, value),) = sizes.items()
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {value}"):
        MultiHeadAttention(**({"d_model": 8, "num_heads": 2} | sizes))


def test_attention_over_no_positions_is_empty():
    assert MultiHeadAttention(8, 2)(torch.randn(1, 0, 8)).shape == (1, 0, 8)


def test_weights_of_one_layer_are_not_taken_for_those_of_all(tmp_path):
    weights = torch.ones(2, 3, 3) / 3
    for draw in (
        attention_rollout,
        lambda w: write_page(w, "abc", tmp_path / "page.html"),
        lambda w: draw_heatmaps(w, "abc", tmp_path / "map.png"),
    ):
        with pytest.raises(ValueError, match=r"\(layers, heads, time, time\), got the shape \(2, 3, 3\)"):
            draw(weights)


def test_drawings_need_one_token_a_position(tmp_path):
    weights = torch.ones(1, 1, 3, 3) / 3
    for draw, name in ((write_page, "page.html"), (draw_heatmaps, "map.png")):
        with pytest.raises(ValueError, match="2 tokens for 3 positions"):
            draw(weights, ["a", "b"], tmp_path / name)
        assert not (tmp_path / name).exists()


def test_a_recording_of_nothing_says_what_to_do():
    with record_attention(torch.nn.Linear(2, 2)) as weights:
        pass
    with pytest.raises(ValueError, match="call the model inside"):
        stack_layers(weights)
