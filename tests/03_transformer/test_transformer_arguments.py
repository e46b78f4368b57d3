"""Stage 3: what a newcomer may pass by mistake gives the right numbers or one clear error."""

from __future__ import annotations

import pytest
import torch

from transformer.positional_encoding import RotaryEmbedding, alibi_slopes, sinusoidal_table


def test_positions_of_one_axis_turn_every_sequence_alike():
    rotary, heads = RotaryEmbedding(8, 16), torch.randn(3, 2, 5, 8)
    positions = torch.tensor([0, 1, 7, 3, 15])
    expected = rotary(positions.expand(3, 5))(heads)
    assert torch.equal(rotary(positions)(heads), expected)
    assert torch.equal(rotary(torch.arange(5))(heads), rotary(slice(0, 5))(heads))


@pytest.mark.parametrize("shape", [(), (1, 2, 5)])
def test_positions_of_other_axes_are_refused(shape):
    with pytest.raises(ValueError, match=r"positions must be \(time,\) or \(batch, time\)"):
        RotaryEmbedding(8, 16)(torch.zeros(shape, dtype=torch.long))


def test_positions_past_the_table_are_refused_and_not_left_out():
    with pytest.raises(ValueError, match="position 16 is past the 16 that were prepared"):
        RotaryEmbedding(8, 16)(slice(16, 17))


@pytest.mark.parametrize("size", [-2, 0, 5])
def test_sizes_that_cannot_be_paired_up_are_refused(size):
    for table in (lambda: sinusoidal_table(4, size), lambda: RotaryEmbedding(size, 4)):
        with pytest.raises(ValueError, match=f"must be even, and theta above 0, got {size}"):
            table()


def test_rotary_speeds_need_a_base_above_0():
    with pytest.raises(ValueError, match="theta above 0, got 8 and -1"):
        RotaryEmbedding(8, 4, theta=-1.0)


@pytest.mark.parametrize("heads", [0, -1])
def test_alibi_needs_a_head(heads):
    with pytest.raises(ValueError, match=f"num_heads must be at least 1, got {heads}"):
        alibi_slopes(heads)
