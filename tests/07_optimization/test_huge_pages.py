"""Stage 7: weights in huge pages. The numbers do not change."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from optimization.weights.huge_pages import HUGE_PAGE, move_to_huge_pages
from optimization.weights.packed_linear import PackedLinear, packing_is_available


def in_huge_pages() -> int:
    """How many bytes of this process are in huge pages."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages"))


def test_moving_changes_no_number_plain_or_packed():
    torch.manual_seed(0)
    linear = nn.Linear(700, 2000)
    x, weight = torch.randn(4, 700), linear.weight.detach().clone()
    tensors = [linear.weight.detach()]
    if packing_is_available(x.device, x.dtype):
        packed = PackedLinear(linear)
        before = packed(x)
        move_to_huge_pages([*tensors, packed.packed])
        assert torch.equal(packed(x), before)
    move_to_huge_pages(tensors)
    assert torch.equal(linear.weight, weight)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux moves pages when asked")
def test_what_is_reported_lies_in_huge_pages():
    # New memory from the system, because the allocator may return memory that is already in huge pages.
    block = mmap.mmap(-1, 16 * HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory = torch.frombuffer(block, dtype=torch.float32).fill_(1.0)
    before = in_huge_pages()
    moved = move_to_huge_pages([memory])
    if not moved:
        pytest.skip("this kernel moves no pages, or has no huge one free")
    assert moved <= 17 * HUGE_PAGE
    assert in_huge_pages() - before >= moved - 2 * HUGE_PAGE  # the first and last are shared with others
    assert torch.equal(memory, torch.ones(16 * HUGE_PAGE // 4))
